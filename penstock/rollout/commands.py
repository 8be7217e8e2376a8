"""`penstock rollout …`. Every command imports what it needs when it runs."""

from __future__ import annotations

import contextlib
import getpass
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.console import say
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.rollout.desk import Desk
    from penstock.rollout.settings import Settings

__all__ = ["rollout"]

rollout = typer.Typer(
    no_args_is_help=True,
    help="Which version of a model answers whom, as conf/rollout/NAME.yaml declares it and as it was changed since.",
)
keys = typer.Typer(no_args_is_help=True, help="Keys of operators, or of clients.")
rollout.add_typer(keys, name="keys")

Name = Annotated[str, typer.Argument(help="Of conf/rollout/NAME.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Hydra overrides, such as router.port=9000.", show_default=False)
]
Why = Annotated[str, typer.Option("--why", "-m", help="In words; goes into the audit trail.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--with", help="A Hydra override that `rollout up` was given, too; may be repeated."),
]
KeyFile = Annotated[
    Path, typer.Option("--file", help="What router.operators names (or router.keys, for clients).")
]
KEYS = Path("conf/operators.yaml")


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


@contextlib.contextmanager
def _desk(name: str, overrides: list[str] | None) -> Iterator[Desk]:
    from penstock.rollout.declared import declared
    from penstock.rollout.desk import Desk
    from penstock.rollout.state import StateError, open_store

    view = declared(name, overrides or [])
    try:
        store = open_store(view)
        try:
            yield Desk(view, store)
        finally:
            store.close()
    except StateError as error:
        raise PenstockError(f"state: {error}", hint="routers go on by what they last knew") from error


def _changed(name: str, given: list[str] | None, change: Callable[[Desk], Settings]) -> None:
    with _desk(name, given) as desk:
        settings = change(desk)
        late = desk.seen(settings.version)
    shares = ", ".join(f"{arm} {share:.1%}" for arm, share in settings.shares().items())
    say(f"version {settings.version} is in force: {settings.plan.strategy.kind}; {shares}")
    if late:
        raise PenstockError(
            f"not yet at every router: {', '.join(late)}", hint="see whether it can reach the state"
        )


@rollout.command()
def up(name: Name, overrides: Overrides = None) -> None:
    """Run router, predictors and controller on this machine until Ctrl-C; what dies is started again."""
    from penstock.rollout.declared import declared
    from penstock.rollout.desk import Desk
    from penstock.rollout.replicas import Replicas
    from penstock.rollout.state import open_store
    from penstock.supervision import Part, python, supervise

    given = overrides or []
    view = declared(name, given)  # told of here, before anything is started
    store = open_store(view)
    settings, _ = Desk(view, store).begin()
    say(f"penstock rollout {name}: {settings.plan.strategy.kind}; Ctrl-C ends it")
    replicas = Replicas(view, store, settings)
    parts = [
        Part("router", python("rollout", "router", name, *given), bound=True),
        Part("controller", python("rollout", "controller", name, *given), bound=True),
    ]
    try:
        code = supervise(parts, each=replicas.look)
    finally:
        replicas.end()
        store.close()
    sys.exit(code)


@rollout.command()
def router(name: Name, overrides: Overrides = None) -> None:
    """A router alone; any number of them may share a state."""
    from penstock.rollout.declared import declared
    from penstock.rollout.router_serving import serve

    sys.exit(serve(declared(name, overrides or [])))


@rollout.command()
def controller(name: Name, overrides: Overrides = None) -> None:
    """What a rollout does by itself: guardrails, steps, learning, conclusions. Of several, one acts."""
    from penstock.rollout.controller import serve
    from penstock.rollout.declared import declared

    sys.exit(serve(declared(name, overrides or [])))


@rollout.command()
def status(name: Name, given: Given = None) -> None:
    """Who answers, how they do, and what is said of it; exit code 1 if an arm does harm or a part is away."""
    from penstock.rollout.back import told
    from penstock.rollout.status import lines, problems

    with _desk(name, given) as desk:
        found = told(desk.view, desk.store)
    for line in lines(found):
        print(line)
    wrong = problems(found)
    for words in wrong:
        say(f"not well: {words}")
    sys.exit(1 if wrong else 0)


@rollout.command("set")
def set_(
    name: Name,
    assignments: Annotated[
        list[str], typer.Argument(help="KEY=VALUE: strategy.kind=canary strategy.steps=[1,10,100] …")
    ],
    why: Why = "",
    given: Given = None,
) -> None:
    """Other settings, checked whole; what cannot be honoured is refused, and nothing is changed."""
    _changed(name, given, lambda desk: desk.set(assignments, _who(), why))


@rollout.command()
def apply(name: Name, why: Why = "", given: Given = None) -> None:
    """Put in force what conf/rollout/NAME.yaml declares by now."""
    _changed(name, given, lambda desk: desk.apply(_who(), why))


@rollout.command()
def promote(
    name: Name,
    to: Annotated[str | None, typer.Option(help="The arm, where there are several.")] = None,
    why: Why = "",
    given: Given = None,
) -> None:
    """A step on: a canary's next share, the switch of blue and green, a challenger as champion. Tested before it answers."""
    _changed(name, given, lambda desk: desk.promote(to, _who(), why))


@rollout.command()
def rollback(name: Name, why: Why = "", given: Given = None) -> None:
    """The champion of before answers everything again, at once."""
    _changed(name, given, lambda desk: desk.rollback(_who(), why))


@rollout.command()
def pause(name: Name, why: Why = "", given: Given = None) -> None:
    """Nothing changes by itself any more; guardrails still take an arm back."""
    _changed(name, given, lambda desk: desk.pause(_who(), why))


@rollout.command()
def resume(name: Name, why: Why = "", given: Given = None) -> None:
    """As before the pause."""
    _changed(name, given, lambda desk: desk.resume(_who(), why))


@rollout.command()
def stop(
    name: Name,
    arm: Annotated[str, typer.Argument(help="That gets nothing any more.")],
    why: Why = "asked for",
    given: Given = None,
) -> None:
    """Take an arm out; the champion answers in its place."""
    _changed(name, given, lambda desk: desk.stop(arm, _who(), why))


@rollout.command()
def history(name: Name, given: Given = None) -> None:
    """Who changed what, when, from what to what, and why; exit code 1 if the trail was tampered with."""
    from penstock.rollout.audit import broken
    from penstock.rollout.status import entry_line

    with _desk(name, given) as desk:
        trail = desk.store.history()
    for entry in trail:
        print(entry_line(entry.dump()))
    where = broken(trail)
    if where is not None:
        raise PenstockError(
            f"entry {where} is not what was written", hint="everything from there on is not to be trusted"
        )


@rollout.command()
def flags(
    name: Name,
    flag: Annotated[str | None, typer.Argument(help="Switch this one; none: list them.")] = None,
    variant: Annotated[str | None, typer.Argument(help="To this variant; or enabled, disabled.")] = None,
    why: Why = "",
    given: Given = None,
) -> None:
    """Feature flags: list them, or switch one; routers see it within a second."""
    from penstock.rollout.flags import read

    with _desk(name, given) as desk:
        if desk.view.router.flags is None:
            raise PenstockError(
                "router.flags: no file of flags is declared", hint="name one in conf/rollout/"
            )
        if flag is not None:
            if variant is None:
                raise PenstockError(
                    f"{flag}: to which variant?", hint="list them: penstock rollout flags NAME"
                )
            entry = desk.flag(flag, variant, _who(), why)
            say(f"{flag}: {variant}; entry {entry.number} of the audit trail")
            return
        for key, found in read(Path(desk.view.router.flags))["flags"].items():
            variants = ", ".join(found["variants"])
            targeted = ", with targeting" if found.get("targeting") else ""
            print(f"{key}\t{found['state'].lower()}\t{found['defaultVariant']} of {variants}{targeted}")


@keys.command("add")
def add_key(
    holder: Annotated[str, typer.Argument(help="Whose it is.")],
    file: KeyFile = KEYS,
    client: Annotated[bool, typer.Option(help="A client's, who may ask for predictions only.")] = False,
) -> None:
    """A new key, printed once on standard output."""
    from penstock.keys import add
    from penstock.rollout.back import OPERATORS
    from penstock.rollout.router import CLIENTS

    print(f"{holder} {add(file, holder, CLIENTS if client else OPERATORS)}")
    say(f"kept as a hash in {file}")


@keys.command("revoke")
def revoke_key(
    holder: Annotated[str, typer.Argument(help="Whose they are.")],
    file: KeyFile = KEYS,
    client: Annotated[bool, typer.Option(help="A client's.")] = False,
) -> None:
    """Take all keys from somebody; running routers see it at once."""
    from penstock.keys import revoke
    from penstock.rollout.back import OPERATORS
    from penstock.rollout.router import CLIENTS

    say(f"{holder}: {revoke(file, holder, CLIENTS if client else OPERATORS)} keys revoked")
