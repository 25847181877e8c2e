"""Container ids and names: generation and the rules for given names.

Engine API ContainerCreate ``name``; semantics "container names", "generated names".
"""

from __future__ import annotations

import random
import re
import secrets
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.types import ContainerId

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_CHARS = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_VALID_NAME = re.compile(rf"^{NAME_CHARS}+$")

_ADJECTIVES = tuple(
    """agile amber bold brave breezy bright brisk calm candid careful cheerful clever cosmic crisp curious daring
    dazzling deft eager earnest elegant fair fearless festive fluent focused frosty gallant gentle gifted golden
    happy hardy honest humble jolly keen kind lively lucid lucky mellow merry mighty modest nifty nimble noble
    patient peaceful placid playful polite proud quick quiet quirky radiant rapid serene sharp silent sincere
    sleek smart snappy solid spirited stoic sturdy sunny swift tender thrifty tidy tranquil trusting upbeat
    vibrant vigilant warm wise witty zealous boring"""  # noqa: SIM905 - words read better than a list
    .split())
_SURNAMES = tuple(
    """abel agnesi ampere archimedes babbage bardeen bassi bell bernoulli bohr boole born bose brahe cannon cantor
    carson cauchy cerf chandrasekhar clarke codd colden cray curie darwin davinci dijkstra dirac easley edison
    einstein elion engelbart euclid euler faraday fermat fermi feynman franklin galileo galois gauss germain
    goldberg goodall gould hamilton hawking heisenberg herschel hertz hopper hoover huygens hypatia jackson
    jepsen johnson joliot jones kapitsa kare kepler kilby knuth kowalevski lalande lamarr lamport leakey leavitt
    liskov lovelace lumiere maxwell mayer mccarthy mcclintock meitner mendel mendeleev mirzakhani moore morse
    napier nash neumann newton nightingale nobel noether pascal pasteur payne perlman pike planck poincare
    ptolemy raman ramanujan ride ritchie rubin saha sammet shannon shaw sinoussi stallman stonebraker swanson
    swartz tesla tharp thompson torvalds turing villani volhard wescoff wiles williams wilson wing wozniak wright
    yalow yonath"""  # noqa: SIM905
    .split())


def new_id() -> ContainerId:
    """Return 64 random hex digits whose first twelve are not all decimal.

    A short id that reads as a number would be taken for one by some clients.
    """
    while True:
        value = secrets.token_hex(32)
        if not value[:12].isdecimal():
            return ContainerId(value)


def generate(taken: Callable[[str], bool], container_id: str) -> str:
    """Return a free ``adjective_surname``; with a digit when crowded; at last the short id."""
    for attempt in range(6):
        name = f"{random.choice(_ADJECTIVES)}_{random.choice(_SURNAMES)}"
        if name == "boring_wozniak":  # Steve Wozniak is not boring
            continue
        if attempt:
            name += str(random.randrange(10))
        if not taken(name):
            return name
    return container_id[:12]


def check(name: str) -> str:
    """Return ``name`` without its leading slash.

    Raises:
        InvalidParameterError: characters outside Docker's set, or fewer than two.
    """
    bare = name.removeprefix("/")
    if not _VALID_NAME.match(bare):
        msg = f"Invalid container name ({name}), only {NAME_CHARS} are allowed"
        raise InvalidParameterError(msg)
    return bare
