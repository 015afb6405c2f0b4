"""Which input is where: the network's variables from the contract alone.

The order is the one that pytorch-forecasting's ``from_dataset`` gives the same variables, so that its ``predict()`` can
run our network as it is.
"""

from dataclasses import dataclass, field

import numpy as np

from models.calendar import Calendar
from schemas.batch import Ints
from schemas.contract import Contract
from schemas.errors import ContractError

# How a target moved of late, as static inputs: they reach every step of the horizon at once, where the network needs
# many more windows to learn it through its recurrence (docs/adr/0006-recent-changes-as-inputs.md).
CHANGES = (1, 2, 4, 8)
_MOST = {"inputs": 256, "symbols": 4_096, "quantiles": 256}  # more takes minutes to build, whatever its tensors' size
CLIP = 8.0  # of level and scale features: a server far outside what training saw stays near its edge
# Attributes of torch.nn.ModuleDict, written down: names within an artifact must not depend on torch's version.
_TAKEN = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items
    keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty
    train training type update values xpu zero_grad
    """.split()  # noqa: SIM905  sixty quoted names would not be easier to read
)


@dataclass(frozen=True, slots=True)
class Scaling:
    """The scalers that training fixed; kept in the artifact.

    Attributes:
        floor: by target, added to a window's scale. level, spread: by target, mean and standard deviation of its level.
        covariates: by covariate, (mean, standard deviation).
        constant: names of inputs that were constant in training and are fed as 0.
    """

    floor: dict[str, float]
    level: dict[str, float]
    spread: dict[str, float]
    covariates: dict[str, tuple[float, float]] = field(default_factory=dict)
    constant: tuple[str, ...] = ()


class Layout:
    """Names and order of the network's variables.

    Attributes:
        changes: of each target over the last 1, 2, 4 and 8 steps.
        static_reals: the changes, the window's length, then level and scale of each target.
        known: known reals, the relative time index last.
        observed: targets, then covariates. reals: all of them in the network's order.
        statics, categories: categorical variables; their symbols in ``vocabulary``, sorted as NaNLabelEncoder sorts.
    """

    def __init__(self, contract: Contract) -> None:
        """Derive it.

        Raises:
            ContractError: a field has the name of an input that the contract asks for, or there are too many of them.
        """
        check_size(contract)
        self.contract = contract
        self.targets = [variable(f.name) for f in contract.targets]
        self.covariates = [variable(f.name) for f in contract.covariates]
        self.observed = self.targets + self.covariates
        scales = [f"{t}_{what}" for t in self.targets for what in ("center", "scale")]
        self.changes = [f"{t}_change_{steps}" for t in self.targets for steps in CHANGES]
        self.static_reals = [*self.changes, "encoder_length", *scales]
        self.calendar = Calendar.of(contract.settings.known, contract.settings.step_seconds)
        self.lags = [f"{t}_season_lag" for t in self.targets] if "season_lag" in contract.settings.known else []
        self.known = [*self.calendar.names, *self.lags, "relative_time_idx"]
        self.reals = self.static_reals + self.known + self.observed
        self.statics = [variable(f.name) for f in contract.statics]
        self.categories = [variable(f.name) for f in contract.categories]
        self.vocabulary = {variable(f.name): sorted(f.symbols) for f in (*contract.statics, *contract.categories)}
        names = [*self.reals, *self.statics, *self.categories]
        if doubled := {n for n in names if names.count(n) > 1}:
            raise ContractError(f"field {min(doubled)!r} has the name of an input that Fleetcast makes itself")
        self._tables = {
            variable(f.name): np.array([self.vocabulary[variable(f.name)].index(s) for s in f.symbols])
            for f in (*contract.statics, *contract.categories)
        }

    def at(self, name: str) -> int:
        """Column of a real variable."""
        return self.reals.index(name)

    def embedding_rows(self, name: str) -> Ints:
        """[symbols] embedding row of each of a categorical variable's symbols, which are sorted there."""
        return self._tables[name]


def clock(layout: Layout) -> tuple[list[str], list[str]]:
    """The calendar's inputs: those that take few values, and the others."""
    names = layout.calendar.names
    return [n for n in names if layout.calendar.small(n)], [n for n in names if not layout.calendar.small(n)]


def check_size(contract: Contract) -> None:
    """Refuse what would take minutes to build.

    Raises:
        ContractError: with the number and the limit.
    """
    categorical = contract.categories + contract.statics
    symbols = sum(len(field.symbols) for field in categorical)
    quantiles = len(contract.settings.quantiles)
    numbers = {"inputs": len(contract.inputs + categorical), "symbols": symbols, "quantiles": quantiles}
    for what, number in numbers.items():
        if number > _MOST[what]:
            raise ContractError(f"the contract has {number} {what}, a model may have {_MOST[what]}")


def variable(name: str) -> str:
    """A contract's field name as a variable's: torch modules refuse names of their own attributes (e.g. ``type``)."""
    return f"{name}_" if name.startswith("_") or name in _TAKEN else name


def relative_steps(layout: Layout, lengths: Ints) -> Ints:
    """[B, encoder + horizon] steps relative to the first forecast step; the horizon follows the padding."""
    encoder, horizon = layout.contract.settings.encoder_steps, layout.contract.settings.horizon_steps
    position = np.arange(encoder + horizon)
    return np.where(position < encoder, position - lengths[:, None], position - encoder)
