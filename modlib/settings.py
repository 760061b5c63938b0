"""The settings of one training run, checked once.

Defaults are the ``quick`` profile: toy faces, small, for a CPU. A record's name is a hash of the
settings that *differ* from the defaults, so a setting added later with a default that means "as
before" leaves old records valid; a default that records rest on must not change.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from modlib.aggregation import WEIGHTINGS
from modlib.errors import ModlibError, unknown_name
from modlib.networks import MASK_INITIALISATIONS, SYSTEMS, TRUNK_FROM
from modlib.trunk import INITIALISATIONS

AGGREGATIONS = ("mean", *WEIGHTINGS)
# Smallest and largest allowed value of the numeric settings.
RANGES = {
    "image_size": (48, 1024), "crop": (0.2, 1.0), "toy_images": (50, 1_000_000),
    "width": (0.01, 8.0), "embedding_size": (1, 65_536), "branch_size": (1, 65_536),
    "rank": (1, 4096), "modulate_from": (2, 5), "bn_decay": (0.001, 0.99999),
    "batch_size": (3, 1_000_000), "samples_per_anchor": (1, 1024),
    "margin": (0.0, 4.0), "shift": (0, 47), "zoom": (0.0, 0.9), "colour_jitter": (0.0, 1.0),
    "batches_per_epoch": (1, 10_000_000), "epochs": (1, 100_000),
    "learning_rate": (1e-9, 100.0), "scale_rate_factor": (0.0, 1e6),
    "regulariser_weight": (0.0, 1e6), "regulariser_beta": (0.0, 1e6),
    "embedding_norm_weight": (0.0, 1e6), "mask_norm_weight": (0.0, 1e6),
    "ucr_every": (0, 1_000_000), "final_probes": (0, 1_000_000),
    "thinness": (1, 2048), "wide_thinness": (1, 2048), "alpha": (0.0, 1e6),
    "round_batches": (1, 10_000_000), "affinity_decay": (0.0, 1.0), "gradient_clip": (1e-9, 1e9),
    "train_images": (10, 10_000_000), "test_images": (10, 10_000_000), "canvas": (28, 56),
    "td_channels": (1, 4096), "bu1_weight": (0.0, 1e6), "td_weight": (0.0, 1e6),
    "test_triplets": (1, 10_000_000), "seed": (0, 2**31 - 1), "workers": (0, 1024),
}


class Checked:
    """A frozen dataclass whose fields are checked against their types and ``RANGES``."""

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            value = _converted(name, getattr(self, name), hint)
            low, high = RANGES.get(name, (None, None))
            if low is not None and value is not None and not low <= value <= high:
                raise ModlibError(f"{name} must be from {low} to {high}; given {value!r}")
            object.__setattr__(self, name, value)


class RunSettings(Checked):
    """What the settings of every kind of training run can tell about themselves."""

    kind = ""  # stands before the system in the names of records, except for triplets
    crop = 1.0  # see :attr:`Settings.crop`
    trunk_from = None  # see :attr:`Settings.trunk_from`

    def __post_init__(self):
        super().__post_init__()
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.profile):
            raise ModlibError(
                "profile must be of letters, digits, '_', '-' and '.', as it begins the names of "
                f"files; given {self.profile!r}")
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ModlibError(f"tasks must be one or more distinct names; given {self.tasks!r}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in values.items()}

    def run_name(self, fingerprint: str) -> str:
        """The record's name: readable parts and a hash of settings and data fingerprint."""
        changed = {
            field.name: getattr(self, field.name) for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        text = json.dumps([changed, fingerprint], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return (f"{self.profile}-{self.kind}{self.system}-{len(self.tasks)}tasks-"
                f"seed{self.seed}-{digest}")


@dataclass(frozen=True)
class Settings(RunSettings):
    """Everything that decides the outcome of one training run on given data."""

    profile: str = "quick"  #: names the records
    # Data
    #: or celeba, zappos, folder
    dataset: Literal["toy_faces", "celeba", "zappos", "folder"] = "toy_faces"
    tasks: tuple[str, ...] = ("Smiling", "Mouth_Slightly_Open", "Young")  #: names of attributes
    image_size: int = 64  #: pixels
    crop: float = 1.0  #: side of what is kept of each photograph, over its centre square's
    toy_images: int = 2000  #: how many toy faces to draw
    # System
    #: a name of ``modlib.networks.SYSTEMS``
    system: Literal[tuple(SYSTEMS)] = "modulated"
    initialisation: Literal[INITIALISATIONS] = "normal"  #: of the convolutions and of fc
    width: float = 0.25  #: channels of the convolutions; 1.0 is the paper's network
    embedding_size: int = 256  #: numbers in an embedding
    modulate_from: int = 4  #: first modulated block
    branch_size: int = 256  #: outputs of a branch, where there are branches
    trunk_system: Literal["branches", "modulated"] = "branches"  #: that "mask_only" starts from
    trunk_tasks: tuple[str, ...] = ()  #: what its trunk was trained for; none for the same tasks
    signed_scales: bool = False  #: without the ReLU, where scales are modulation's
    rank: int = 4  #: of "low_rank"
    mask_initialisation: Literal[MASK_INITIALISATIONS] = "slices"  #: of "csn"
    bn_decay: float = 0.9  #: batch norm's running averages; the paper's 0.995 needs long training
    # Triplets
    #: whether an image serves every task (shared), or the one it was drawn for (triplets)
    batching: Literal["shared", "triplets"] = "shared"
    #: whether anchors have the attribute (holders), or only every second one (symmetric)
    triplet_choice: Literal["holders", "symmetric"] = "holders"
    batch_size: int = 180  #: images
    batch_images: Literal["triplets", "any"] = "triplets"  #: whether drawn for each task
    samples_per_anchor: int = 8  #: positives and negatives per anchor, in shared batching
    margin: float = 0.2  #: of the triplet loss
    hinge_mean: Literal["all", "active"] = "all"  #: over which triplets a task's loss is averaged
    horizontal_flip: bool = True  #: mirror every second image, at random
    shift: int = 0  #: pixels, at most, that an image is moved along each side
    zoom: float = 0.0  #: share, at most, by which an image is enlarged or shrunk
    colour_jitter: float = 0.0  #: strength of random brightness, contrast and tint
    # Optimisation
    epochs: int = 3  #: validation and a checkpoint after each
    batches_per_epoch: int | None = None  #: None for as long as holders, or triplets, last
    optimiser: Literal["adam", "adagrad"] = "adam"  #: or adagrad
    learning_rate: float = 1e-3  #: at the start
    scale_rate_factor: float = 20.0  #: the scales' learning rate over the network's
    #: how the learning rate falls
    schedule: Literal["tenth_for_last_30_percent", "tenth_every_40_epochs", "cosine"] = (
        "tenth_for_last_30_percent"
    )
    precision: Literal["bfloat16", "float32"] = "bfloat16"  #: or float32
    compiled: bool = False  #: by torch.compile, with minutes of warm-up
    aggregation: Literal[AGGREGATIONS] = "mean"  #: of the tasks' gradients
    regulariser_weight: float = 0.0  #: λ of Eq. 8; 0 is off
    regulariser_beta: float = 1.0  #: β of Eq. 8
    embedding_norm_weight: float = 0.0  #: CSN's penalty on long embeddings; 5e-3 in its code
    mask_norm_weight: float = 0.0  #: CSN's penalty on masks; 5e-4 in its code
    # Measurement
    ucr_every: int = 4  #: probe every k-th batch; 0 for never
    final_probes: int = 0  #: batches that the trained network is probed on in every mode
    test_triplets: int = 10_000  #: per task, and as many to validate on
    final_test: bool = True  #: False for validation alone, without a look at the test split
    seed: int = 0  #: of all that is drawn at random

    def __post_init__(self):
        super().__post_init__()
        if (self.trunk_system, self.trunk_tasks) != ("branches", ()) and (
                self.system not in TRUNK_FROM):
            raise ModlibError(f"trunk_system and trunk_tasks are of system='mask_only'; given "
                              f"system={self.system!r}")
        if len(set(self.trunk_tasks)) != len(self.trunk_tasks):
            raise ModlibError(f"trunk_tasks must be distinct names; given {self.trunk_tasks!r}")
        if self.triplets_per_task < 1:
            raise ModlibError(
                f"batch_size must be at least 3 × {len(self.tasks)} tasks = "
                f"{3 * len(self.tasks)}; given {self.batch_size}"
            )
        if self.regulariser_weight > 0 and (self.system != "modulated" or len(self.tasks) != 3):
            raise ModlibError(
                "regulariser_weight above 0 needs system='modulated' and three tasks (i, j, k of "
                f"Eq. 8); given system={self.system!r} with {len(self.tasks)} tasks"
            )
        if self.has_csn_penalty and self.system != "csn":
            raise ModlibError("embedding_norm_weight and mask_norm_weight above 0 need "
                              f"system='csn'; given system={self.system!r}")
        if self.crop < 1 and self.dataset == "toy_faces":
            raise ModlibError("crop below 1 needs dataset='celeba', 'zappos' or 'folder': toy "
                              f"faces are drawn, not cut out; given {self.crop}")
        if self.batch_images == "any" and self.batching == "triplets":
            raise ModlibError("batch_images='any' needs batching='shared': in 'triplets' batching "
                              "every image is drawn for a task")
        if self.compiled and (self.ucr_every or self.final_probes or self.aggregation != "mean"
                              or self.has_csn_penalty):
            raise ModlibError(
                "compiled=True needs ucr_every=0, final_probes=0, aggregation='mean' and no "
                "penalties of CSN's: what torch compiles can go backwards once and has no place to "
                f"look inside; given ucr_every={self.ucr_every}, "
                f"final_probes={self.final_probes}, aggregation={self.aggregation!r}")
        if self.aggregation != "mean" and self.has_csn_penalty:
            raise ModlibError(f"aggregation={self.aggregation!r} weighs task losses alone and "
                              "leaves no place for CSN's penalties; use 'mean'")
        if self.aggregation != "mean" and self.system in ("independent", *TRUNK_FROM):
            raise ModlibError(f"aggregation={self.aggregation!r} needs shared parameters to train, "
                              f"and system={self.system!r} has none; use 'mean'")

    @property
    def triplets_per_task(self) -> int:
        """Triplets of each task that a batch is drawn from."""
        return self.batch_size // (3 * len(self.tasks))

    @property
    def has_csn_penalty(self) -> bool:
        """Whether one of CSN's two penalties is switched on."""
        return self.embedding_norm_weight > 0 or self.mask_norm_weight > 0

    @property
    def trunk_from(self) -> "Settings | None":
        """The run whose trained trunk this one starts from and keeps frozen, or None."""
        if self.system not in TRUNK_FROM:
            return None
        trunk = replace(self, system=self.trunk_system, tasks=self.trunk_tasks or self.tasks,
                        trunk_system=Settings.trunk_system, trunk_tasks=Settings.trunk_tasks)
        if self.trunk_system == "modulated":
            return trunk
        # Without what only its scales know, so that systems on one trunk train it once.
        return replace(trunk, modulate_from=Settings.modulate_from,
                       signed_scales=Settings.signed_scales)


@dataclass(frozen=True)
class Places(Checked):
    """Where things are and what they run on: nothing here changes what a result means.

    Relative paths start at the project's root.
    """

    data_root: str | None = None  #: a folder, or (CelebA, UT-Zappos50K, one's own) a zip archive
    cache_dir: str | None = None  #: decoded images; None for the user's cache folder
    skip_broken: bool = False  #: leave out images that cannot be decoded, and list them
    results_dir: str = "runs/records"  #: finished runs
    checkpoint_dir: str = "runs/checkpoints"  #: what stopped runs go on from
    device: str = "auto"  #: auto, cpu, cuda, cuda:1, …
    workers: int = 0  #: processes that train side by side; 0 for this one alone


def _converted(name: str, value: Any, hint: Any) -> Any:
    """The value in the field's type, or an error that says what is allowed."""
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            raise unknown_name(f"value of {name}:", value, get_args(hint))
        return value
    if origin is UnionType:
        inner = next(arg for arg in get_args(hint) if arg is not NoneType)
        return None if value is None else _converted(name, value, inner)
    if origin is tuple:
        inner = get_args(hint)[0]
        if isinstance(value, list | tuple) and all(_fits(item, inner) for item in value):
            return tuple(value)
        raise ModlibError(f"{name} must be a list of {inner.__name__}; given {value!r}")
    if not _fits(value, hint):
        said = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
        quoted = " (text: in YAML write 1.0e-3 or false, without quotes, and pass it with -y or -f)"
        given = f"{value!r}{quoted if isinstance(value, str) else ''}"
        raise ModlibError(f"{name} must be {said}; given {given}")
    try:
        return float(value) if hint is float else value
    except OverflowError:  # a whole number of hundreds of digits, which no range allows
        return math.inf


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
