"""The measurements that ``monitor``, ``check`` and ``diagnose`` share."""
