"""Former home of :mod:`zeromean.study.spec.validation`; goes with its last import."""

from zeromean.study.spec.validation import LARGEST_FLOAT32, SettingError

__all__ = ["LARGEST_FLOAT32", "SettingError"]
