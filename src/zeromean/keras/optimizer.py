"""A Keras optimizer that centralizes: the class that it was, with centering inside its step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.keras.projection import center, is_wide, vector_means, widened
from zeromean.keras.targets import At, Planner, planner, to_config
from zeromean.plan import Plan

_REGISTERED = keras.saving.register_keras_serializable("zeromean", "Centralized")


@_REGISTERED
class Centralized(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras is not typed
    """Goes before an optimizer's own class; :func:`zeromean.keras.centralize` puts it there.

    Keras clips (and averages accumulated gradients), then decays the weights, then calls
    ``_backend_update_step``, on every backend. There,

    - ``at="gradient"`` hands P(g) on, g as clipped;
    - ``at="update"`` puts back the mean that every weight vector had, so decay waits until then.
    """

    _at: At
    _planner: Planner
    _plan: Plan | None
    _fan_ins: list[FanIn | None]  # one for each variable, in the order that they were built in
    _lost: dict[int, Any]

    @property
    def plan(self) -> Plan:
        """Which variables are centered, over which axes, and why.

        Raises:
            ZeromeanError: The optimizer has not been built, so it has no variables yet.
        """
        if self._plan is None:
            raise ZeromeanError(
                f"{type(self).__name__}, which is not built yet",
                "an optimizer that knows its variables",
                "explain(model), or optimizer.build(model.trainable_variables) first",
            )
        return self._plan

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        if self._plan is None:
            make_plan_of(self)

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
                self._put_back(variable, fan_in, mean, self._lost.get(index))

    def _put_back(self, variable: Any, fan_in: FanIn, mean: Any, lost: Any) -> None:
        """Shift every weight vector to the mean that it had, and to what rounding lost of it."""
        now = vector_means(_value(variable), fan_in)
        aim = mean if lost is None else mean + _value(lost)
        # What did not move stays as it is, also where rounding has lost something.
        amount = (aim - now) * ops.cast(now != mean, now.dtype)
        self.assign(variable, ops.cast(widened(_value(variable)) + amount, variable.dtype))
        if lost is not None:
            self.assign(lost, aim - vector_means(_value(variable), fan_in))

    def __reduce__(self) -> Any:
        """As Keras does, by the saving library; but pickle finds no class that was made here."""
        _, arguments = super().__reduce__()
        return Centralized._unpickle_model, arguments

    def get_config(self) -> dict[str, Any]:
        plain: Any = object.__new__(public_class(type(self)))  # this optimizer without centering
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
    """Make a plain optimizer a centralized one, in place, and plan it if it is built."""
    plain: Any = type(optimizer)
    object.__setattr__(optimizer, "__class__", centralized_class(plain))
    optimizer._at, optimizer._planner, optimizer._plan = at, planner, None
    centralized: Centralized = optimizer
    if centralized.built:
        make_plan_of(centralized)
    return centralized


def make_plan_of(optimizer: Centralized) -> None:
    """Plan for the variables that the optimizer was built with."""
    variables = optimizer._trainable_variables
    plan = optimizer._planner.plan(variables)
    if not plan.centered:
        warn("nothing is centered: print the plan, which tells why for each variable")
    centered = {id(row.parameter): row.fan_in for row in plan.centered}
    optimizer._plan = plan
    optimizer._fan_ins = [centered.get(id(variable)) for variable in variables]
    optimizer._lost = {}
    if optimizer._at == "gradient":
        return
    # A mean is finer than a rounding step of half-precision weights: what rounding loses, one
    # float32 a vector, is carried to the next step that moves the vector.
    for index, (variable, fan_in) in enumerate(zip(variables, optimizer._fan_ins, strict=True)):
        if fan_in is not None and not is_wide(variable):
            shape = vector_means(ops.zeros(variable.shape), fan_in).shape
            optimizer._lost[index] = optimizer.add_variable(
                shape=tuple(shape), dtype="float32", name="zeromean_lost"
            )


@functools.cache
def centralized_class(plain: Any) -> type:
    """The class of a centralized optimizer of this plain class."""
    made = type(f"Centralized{plain.__name__}", (Centralized, plain), {"__module__": __name__})
    _REGISTERED(made)
    return made


def public_class(centralized: type) -> type:
    """What :func:`centralized_class` was given, or Keras' own where that is a backend's variant."""
    plain = centralized.__bases__[1]
    public: type = getattr(keras.optimizers, plain.__name__, plain)
    return public if issubclass(plain, public) else plain


def _value(variable: Any) -> Any:
    return ops.stop_gradient(ops.convert_to_tensor(variable))
