"""Run any training program with Gradient Centralization, unmodified: ``zeromean run``.

:mod:`command` starts the program with :file:`boot/` on ``PYTHONPATH``. The boot file waits for
torch and calls :mod:`attach` in every Python process. :mod:`attach` centralizes each optimizer at
its first step, with the model that :mod:`find_model` finds, and :mod:`record` reports what
happened.
"""
