"""What the kit has to know of the product that is built with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.kit.web.catalogue import Meaning
from services.kit.web.problems import Problem


@dataclass(frozen=True)
class Product:
    """A product that is built with the kit. A container has one: `class Container(kit.Container): product = ...`.

    `name` is the prefix of metrics (`shop_...`) and of the types of problems (`urn:shop:problem:...`); `problems` says
    which answer a client gets to an error of the product's own, and `meanings` what each problem of its own means;
    `openapi` is the file that `/docs` shows; `noted` are the fields of events that traces show, with the names of the
    attributes.
    """

    name: str = "shop"
    problems: Mapping[type[Exception], Callable[[], Problem]] = field(default_factory=dict)
    meanings: Mapping[str, Meaning] = field(default_factory=dict)
    openapi: Path | None = None
    noted: Mapping[str, str] = field(default_factory=dict)
