"""Controlled comparisons of training methods: tasks x methods x optimizers x seeds.

>>> from zeromean.study import Study, Task
>>> study = Study(tasks=(Task(data="digits", model="mlp", epochs=1),), seeds=1)
>>> study.methods
('plain', 'gc')
"""

from __future__ import annotations

from zeromean.study.study import Study as Study
from zeromean.study.task import Task as Task
from zeromean.study.tuning import Tuning as Tuning
