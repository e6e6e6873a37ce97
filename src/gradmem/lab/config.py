"""What a study or a run is asked to be: checked options, from the command line and from TOML.

Every option of `gradmem tune`, `compare` and `train` is a field here, so each can stand in a file:

    task = "digits"
    optimizers = ["adam", "adam_c"]
    trials = 32

    [space.adam]
    lr = { low = 1e-5, high = 1.0 }
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tomlkit
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from tomlkit.exceptions import TOMLKitError

from gradmem.lab.errors import ConfigError, hint

NAME = "config.toml"  # in a result folder
# What says where and how a study runs, but not what it computes, nor belongs to its folder.
_NOT_KEPT = frozenset({"out", "open", "quiet", "retry_crashed"})


def _separated(value: object) -> object:
    """``"adam, adam_c"`` as the list of its names."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def check_dimension(value: Any) -> Any:
    """A range with ``low`` and ``high``, a list of values, or one value.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Mapping):
        if value.keys() != {"low", "high"}:
            raise ValueError(f"needs low and high and nothing else, not {dict(value)}")
        if not all(isinstance(end, (int, float)) for end in value.values()):
            raise ValueError(f"needs two numbers, not {dict(value)}")
    elif isinstance(value, list) and not value:
        raise ValueError("needs a value at least, not an empty list")
    return value


def file_name(text: str) -> str:
    """A task or an optimizer as part of a file's name.

    >>> file_name("data/houses.csv:price")
    'data-houses.csv-price'
    """
    return re.sub(r"[^\w.+-]+", "-", text)


Names = Annotated[tuple[str, ...], BeforeValidator(_separated)]
Dimension = Annotated[Any, BeforeValidator(check_dimension)]
# Strict: in a file, "3" is a text and true is no number. The command line hands over numbers.
AtLeastOne = Annotated[int, Field(ge=1, strict=True)]
AtLeastZero = Annotated[int, Field(ge=0, strict=True)]
FewSeeds = Annotated[int, Field(ge=1, le=100, strict=True)]
Switch = Annotated[bool, Field(strict=True)]


class Config(BaseModel):
    """What every command that trains has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    command: ClassVar[str]

    task: str
    epochs: AtLeastOne | None = None
    batch_size: AtLeastOne | None = None
    timeout: Annotated[float, Field(gt=0, strict=True)] | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0, strict=True)] = 10.0
    tensorboard: Path | None = None
    data: Path | None = None
    out: Path | None = None
    open: Switch = False
    quiet: Switch = False

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path("gradmem-results") / file_name(self.task)


class TuneConfig(Config):
    """A search for the best setting of each optimizer."""

    command: ClassVar[str] = "tune"

    optimizers: Names = ("adam", "adam_c")
    trials: AtLeastOne = 32
    tuning_seeds: FewSeeds = 1
    sampler: Literal["halton", "tpe"] = "halton"
    sampler_seed: AtLeastZero = 0
    startup: AtLeastOne = 12
    space: dict[str, dict[str, Dimension]] = Field(default_factory=dict)
    storage: str | None = None
    workers: AtLeastOne = 1
    retry_crashed: Switch = False


class CompareConfig(TuneConfig):
    """A search, and then fresh seeds at each best setting."""

    command: ClassVar[str] = "compare"

    seeds: AtLeastOne = 20
    records: Switch = True


class TrainConfig(Config):
    """One run at a given setting."""

    command: ClassVar[str] = "train"

    optimizer: str = "adam"
    options: dict[str, Any] = Field(default_factory=dict)
    seed: AtLeastZero = 0

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path("gradmem-results") / f"train-{file_name(self.task)}"


COMMANDS: Mapping[str, type[Config]] = {
    each.command: each for each in (TuneConfig, CompareConfig, TrainConfig)
}
AnyConfig = TypeVar("AnyConfig", bound=Config)


def assemble(kind: type[AnyConfig], file: Path | None, given: Mapping[str, Any]) -> AnyConfig:
    """A config from a file, if there is one, and from what was ``given``, which comes first.

    Args:
        kind: which command's config.
        file: TOML. A key ``command`` in it may name another command: its options that this one
            does not have are then left out, so that `compare` can go on from what `tune` wrote.
        given: options of the command line; None where one was left out.

    Raises:
        ConfigError: the file cannot be read, or an option is unknown or wrong.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = read_toml(file)
        written_by = values.pop("command", kind.command)
        if written_by != kind.command:
            values = _of_this_command(kind, written_by, values, file)
    values |= {name: value for name, value in given.items() if value is not None}
    return _checked(kind, values, file)


def _of_this_command(
    kind: type[Config], written_by: object, values: dict[str, Any], file: Path
) -> dict[str, Any]:
    if written_by not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise ConfigError(f"command in {file} must be one of {known}, not {written_by!r}")
    foreign = COMMANDS[str(written_by)].model_fields.keys() - kind.model_fields.keys()
    return {name: value for name, value in values.items() if name not in foreign}


def read(folder: Path) -> Config:
    """The config that a study in ``folder`` was started with.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    file = folder / NAME
    if not file.is_file():
        raise ConfigError(
            f"there is no {NAME} in {folder}, so no study was started there; name a folder that "
            "`gradmem tune`, `compare`, `train` or `ablate` wrote to"
        )
    command = read_toml(file).get("command")
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise ConfigError(f"command in {file} must be one of {known}, not {command!r}")
    return assemble(COMMANDS[str(command)], file, {"out": folder})


def read_toml(file: Path) -> dict[str, Any]:
    """The contents of a TOML file, plain.

    Raises:
        ConfigError: it is not there, or not TOML.
    """
    try:
        return tomlkit.parse(file.read_text(encoding="utf-8")).unwrap()
    except FileNotFoundError:
        raise ConfigError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except TOMLKitError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def refuse_another(folder: Path | None, command: str) -> None:
    """See that ``command`` takes no folder away from another, whose report it would replace.

    Raises:
        ConfigError: another command began what is in the folder. `tune` and `compare` go on from
            each other.
    """
    if folder is None or not (folder / NAME).is_file():
        return
    try:
        before = read_toml(folder / NAME).get("command", command)
    except ConfigError:  # it cannot be read, so there is nothing to take away
        return
    if before != command and {before, command} != {"tune", "compare"}:
        raise ConfigError(
            f"{folder} has what `gradmem {before}` began, and `gradmem {command}` would take its "
            "place; name another folder with --out"
        )


def as_toml(config: Config) -> str:
    """``config`` as a file that `assemble` reads; options that are off are left out."""
    plain = config.model_dump(mode="json", exclude_none=True, exclude=set(_NOT_KEPT))
    # Tables last: a key that follows one would belong to it.
    ordered = sorted(plain.items(), key=lambda item: isinstance(item[1], dict))
    return tomlkit.dumps({"command": config.command, **{k: v for k, v in ordered if v != {}}})


def changes(before: Config, after: Config) -> list[str]:
    """What differs between two configs, one phrase an option."""
    old, new = (each.model_dump(mode="json", exclude=set(_NOT_KEPT)) for each in (before, after))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} {old.get(name)} -> {new.get(name)}" for name in names]


def parse_settings(pairs: list[str] | None, what: str) -> dict[str, Any] | None:
    """``name=value`` pairs of the command line; a value is read as TOML, else it is a word.

    >>> parse_settings(["lr=1e-3", "policy=fifo", "nesterov=true"], "--set")
    {'lr': 0.001, 'policy': 'fifo', 'nesterov': True}
    """
    if not pairs:
        return None
    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise ConfigError(f"{what} takes name=value, not {pair!r}")
        settings[name.strip()] = _value(text.strip())
    return settings


def parse_spaces(pairs: list[str] | None) -> dict[str, dict[str, Any]] | None:
    """``optimizer.option=low:high``, or ``=a,b,c``, of the command line.

    >>> parse_spaces(["adam.lr=1e-5:1", "adam_c.policy=fifo,random"])
    {'adam': {'lr': {'low': 1e-05, 'high': 1.0}}, 'adam_c': {'policy': ['fifo', 'random']}}
    >>> parse_spaces(["my_optimizers.py:Mine.rho=0.1"])
    {'my_optimizers.py:Mine': {'rho': [0.1]}}
    """
    if not pairs:
        return None
    spaces: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        place, _, text = pair.partition("=")
        optimizer, _, option = place.strip().rpartition(".")  # a file or package has dots too
        if not optimizer or not option.isidentifier() or not text.strip():
            raise ConfigError(f"--space takes optimizer.option=low:high or =a,b,c, not {pair!r}")
        spaces.setdefault(optimizer, {})[option] = _space(text.strip(), pair)
    return spaces


def _space(text: str, pair: str) -> Any:
    if ":" in text:
        try:
            low, high = map(float, text.split(":"))
        except ValueError:
            raise ConfigError(
                f"a range is two numbers, low:high, not {text!r} in {pair!r}"
            ) from None
        return {"low": low, "high": high}
    return [_value(part.strip()) for part in text.split(",")]


def as_setting(value: Any) -> str:
    """The text that ``--set`` reads as this value.

    >>> as_setting(0.1), as_setting("fifo"), as_setting("1"), as_setting([True, False])
    ('0.1', 'fifo', '"1"', '[true, false]')
    """
    text = str(value)
    read = _value(text)
    same = type(read) is type(value) and read == value
    return text if same else str(tomlkit.item(value).as_string())


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        text = text.lower()
    try:
        return tomlkit.value(text).unwrap()
    except (TOMLKitError, ValueError):
        try:
            return float(text)  # TOML wants 0.1 where people type .1
        except ValueError:
            return text


def _checked(kind: type[AnyConfig], values: Mapping[str, Any], file: Path | None) -> AnyConfig:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = f" in {file}" if file is not None else ""
        sentences = [_sentence(kind, each, where) for each in error.errors(include_url=False)]
        raise ConfigError("; ".join(dict.fromkeys(sentences))) from None


def _sentence(kind: type[Config], error: ErrorDetails, where: str) -> str:
    """One of pydantic's findings, with the name, the value and the range."""
    location, value, context = error["loc"], error["input"], error.get("ctx", {})
    name = ".".join(map(str, location))
    match error["type"]:
        case "extra_forbidden" if len(location) == 1:
            return f"unknown key {name!r}{where}; {hint(name, kind.model_fields)}"
        case "value_error":
            return f"{name} {context['error']}{where}"
        case "missing" if name == "task":
            return f"no task is named{where}; `gradmem tasks` lists them"
        case "greater_than_equal":
            return f"{name} must be at least {context['ge']}, not {value!r}{where}"
        case "less_than_equal":
            return f"{name} must be at most {context['le']}, not {value!r}{where}"
        case "greater_than":
            return f"{name} must be greater than {context['gt']}, not {value!r}{where}"
        case "literal_error":
            return f"{name} must be one of {context['expected']}, not {value!r}{where}"
        case kind_of_error if kind_of_error.startswith("int"):
            return f"{name} must be a whole number, not {value!r}{where}"
        case kind_of_error if kind_of_error.startswith("float"):
            return f"{name} must be a number, not {value!r}{where}"
        case kind_of_error if kind_of_error.startswith("bool"):
            return f"{name} must be true or false, not {value!r}{where}"
        case _:
            said = error["msg"][0].lower() + error["msg"][1:]
            return f"{name}: {said}, not {value!r}{where}"
