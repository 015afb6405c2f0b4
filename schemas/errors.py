"""The errors of Fleetcast, split by what the caller does next.

::

    FleetcastError                 exit 1
    ├── InputError                 exit 2  wrong usage or bad input: the caller corrects it
    │   ├── ContractError          a contract that makes no sense
    │   ├── MappingError           a mapping that makes no sense
    │   └── DataError              a data file that does not fit
    ├── MismatchError              exit 3  contract, model or registered schema do not fit each other
    │   └── ArtifactError          a model artifact that is damaged, or not what it says
    └── UnreachableError           exit 4  broker or registry out of reach: try again later

A record that cannot be used is not an exception: it is a ``Rejection`` (see ``schemas.batch``) and the stream goes on.
"""


class FleetcastError(Exception):
    """Root of all errors that are told to the user in one sentence."""

    exit_code = 1


class InputError(FleetcastError):
    """Wrong usage or bad input."""

    exit_code = 2


class ContractError(InputError):
    """A contract that makes no sense."""


class MappingError(InputError):
    """A mapping file that makes no sense."""


class DataError(InputError):
    """A data file that does not fit the contract."""


class MismatchError(FleetcastError):
    """Two things that must agree do not."""

    exit_code = 3


class ArtifactError(MismatchError):
    """A model artifact that is damaged or not what it says."""


class UnreachableError(FleetcastError):
    """A broker or registry that does not answer."""

    exit_code = 4
