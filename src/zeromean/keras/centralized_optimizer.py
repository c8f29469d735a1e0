"""Subclass a Keras optimizer so that its step centers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.keras.planners import AsSaved, At, Planner, planner, to_config
from zeromean.keras.projection import center, is_full_precision, to_float32, vector_means
from zeromean.plan import Plan

_REGISTERED = keras.saving.register_keras_serializable("zeromean", "Centralized")


@_REGISTERED
class Centralized(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras is not typed
    """A mixin in front of an optimizer's class; :func:`zeromean.keras.centralize` adds it.

    On every backend Keras averages accumulated gradients, clips them, decays the weights, then
    calls ``_backend_update_step``. There,

    - ``at="gradient"`` makes the step with P(g) instead of the clipped g;
    - ``at="update"`` decays the weights, makes the step and restores each vector's mean.
    """

    _at: At
    _planner: Planner
    _plan: Plan | None
    _fan_ins: list[FanIn | None]  # one per variable, in the order of build
    _rounding_errors: dict[int, Any]  # by the index of the variable

    @property
    def plan(self) -> Plan:
        """The plan: which variables are centered, over which axes, and why.

        Raises:
            ZeromeanError: The optimizer is not built yet, so it has no variables.
        """
        if self._plan is None:
            raise ZeromeanError(
                f"{type(self).__name__} is not built yet, so it has no variables",
                "Call explain(model), or optimizer.build(model.trainable_variables) first",
            )
        return self._plan

    def build(self, variables: Sequence[Any]) -> None:
        # Keras' loader of .h5 files passes no variables.
        saved = self._planner.rows if isinstance(self._planner, AsSaved) else ()
        plannable = self._plan is None and (variables or not saved)
        # Planning may raise, so it comes first.
        plan = _plan(self._planner, variables) if plannable else None
        super().build(variables)
        if plan is not None:
            _adopt(self, plan)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        if self._at == "gradient":  # decoupled, so it stays outside
            super()._apply_weight_decay(variables)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        fan_ins = [self._fan_ins[index] for index in indices]
        if self._at == "gradient":
            grads = [
                gradient if fan_in is None else center(gradient, fan_in)
                for gradient, fan_in in zip(grads, fan_ins, strict=True)
            ]
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        before = [
            None if fan_in is None else vector_means(_value(variable), fan_in)
            for variable, fan_in in zip(trainable_variables, fan_ins, strict=True)
        ]
        super()._apply_weight_decay(trainable_variables)
        super()._backend_update_step(grads, trainable_variables, learning_rate)
        for variable, fan_in, index, mean in zip(
            trainable_variables, fan_ins, indices, before, strict=True
        ):
            if fan_in is not None:
                self._restore_mean(variable, fan_in, mean, self._rounding_errors.get(index))

    def _restore_mean(self, variable: Any, fan_in: FanIn, mean: Any, error: Any) -> None:
        """Shift each weight vector to its earlier mean, corrected for past rounding."""
        now = vector_means(_value(variable), fan_in)
        target = mean if error is None else mean + _value(error)
        # A vector that did not move gets no correction.
        amount = (target - now) * ops.cast(now != mean, now.dtype)
        self.assign(variable, ops.cast(to_float32(_value(variable)) + amount, variable.dtype))
        if error is not None:
            self.assign(error, target - vector_means(_value(variable), fan_in))

    def __reduce__(self) -> Any:
        """Pickle through Keras' saving library; pickle cannot find the class created here."""
        _, arguments = super().__reduce__()
        return Centralized._unpickle_model, arguments

    def get_config(self) -> dict[str, Any]:
        plain: Any = object.__new__(public_class(type(self)))  # the optimizer without centering
        vars(plain).update(vars(self))
        return {
            "optimizer": keras.saving.serialize_keras_object(plain),
            "at": self._at,
            "plan": self._planner.config()
            if self._plan is None
            else to_config(self._plan, self._trainable_variables),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Centralized:
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
        return install(optimizer, config["at"], planner(config["plan"]))


def install(optimizer: Any, at: At, planner: Planner) -> Centralized:
    """Centralize an optimizer in place; if this raises, the optimizer is unchanged."""
    plan = _plan(planner, optimizer._trainable_variables) if optimizer.built else None
    plain: Any = type(optimizer)
    object.__setattr__(optimizer, "__class__", centralized_class(plain))
    optimizer._at, optimizer._planner, optimizer._plan = at, planner, None
    centralized: Centralized = optimizer
    if plan is not None:
        _adopt(centralized, plan)
    return centralized


def _plan(planner: Planner, variables: Sequence[Any]) -> Plan:
    plan = planner.plan(variables)
    if not plan.centered:
        warn("nothing is centered; print the plan, which shows why for each variable")
    return plan


def _adopt(optimizer: Centralized, plan: Plan) -> None:
    """Store the plan of a built optimizer, and create the state that it needs."""
    variables = optimizer._trainable_variables
    centered = {id(row.parameter): row.fan_in for row in plan.centered}
    optimizer._plan = plan
    optimizer._fan_ins = [centered.get(id(variable)) for variable in variables]
    optimizer._rounding_errors = {}
    if optimizer._at == "gradient":
        return
    # The correction of a mean is smaller than a rounding step of half-precision weights. The
    # rounding error, one float32 per vector, is added at the next step that moves the vector.
    for index, (variable, fan_in) in enumerate(zip(variables, optimizer._fan_ins, strict=True)):
        if fan_in is not None and not is_full_precision(variable):
            shape = vector_means(ops.zeros(variable.shape), fan_in).shape
            optimizer._rounding_errors[index] = optimizer.add_variable(
                shape=tuple(shape), dtype="float32", name="zeromean_rounding_error"
            )


@functools.cache
def centralized_class(plain: Any) -> type:
    """Return the centralized subclass of an optimizer class."""
    made = type(f"Centralized{plain.__name__}", (Centralized, plain), {"__module__": __name__})
    _REGISTERED(made)
    return made


def public_class(centralized: type) -> type:
    """Return the class before centralization, or Keras' public class for a backend's variant."""
    plain = centralized.__bases__[1]
    if plain.__module__.startswith("keras.src.backend."):
        public: type = getattr(keras.optimizers, plain.__name__)
        return public
    return plain


def _value(variable: Any) -> Any:
    return ops.stop_gradient(ops.convert_to_tensor(variable))
