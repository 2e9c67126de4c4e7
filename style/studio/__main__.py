"""`python -m style.studio`: a page in the browser on which pictures are made.

For example: python -m style.studio
"""

from __future__ import annotations

import time
from typing import Any

from absl import flags

from style.studio.settings import LOCAL, StudioSettings
from vgg_normalize.runtime import command
from vgg_normalize.runtime.progress import Heartbeat, InterruptHandler, say
from vgg_normalize.runtime.starting import starting_tensorflow


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults of `StudioSettings`."""
    add = command.adder(values, command.defaults(StudioSettings))
    string = flags.DEFINE_string
    add(string, "model", "Network to compare pictures by, as of `python -m style`.")
    add(string, "takes", "Directory for the pictures and their settings.")
    add(
        flags.DEFINE_list,
        "networks",
        "Directories in which trained stylisers and normalised networks are looked for, and in "
        "those directly below.",
    )
    add(
        string,
        "host",
        "Address to listen at. 127.0.0.1 is this machine alone; 0.0.0.0 is everybody who reaches it.",
    )
    add(
        flags.DEFINE_integer,
        "port",
        "Port to listen at; 0 for the first that is free from 7860 on.",
        lower_bound=0,
        upper_bound=65535,
    )
    add(
        string,
        "password",
        "Password that visitors must enter, with the user name studio; by default none.",
    )


def _start(settings: dict[str, Any], given: set[str], stop: InterruptHandler) -> None:
    """Serve until a signal comes."""
    say("starting TensorFlow")
    with starting_tensorflow():
        from style.studio.server import launch
    Heartbeat.doing("preparing the page")
    chosen = StudioSettings(**{**settings, "networks": tuple(settings["networks"])})
    if chosen.host != LOCAL:
        guarded = "with the password" if chosen.password else "without any password: use --password"
        say(
            f"listening at {chosen.host}: everybody who reaches this address can make pictures here "
            f"and see all takes, {guarded}"
        )
    with stop.defer():
        studio = launch(
            model=chosen.model,
            takes=chosen.takes,
            networks_in=chosen.networks,
            host=chosen.host,
            port=chosen.port or None,
            password=chosen.password,
        )
        say(f"open {studio.url} in a browser; Ctrl-C ends")
        Heartbeat.doing("")
        while stop.requested is None:
            time.sleep(0.2)
        Heartbeat.doing("saving the picture")
        studio.close()
        say(f"pictures and their settings are in {chosen.takes}")
    stop.raise_if_requested()


COMMAND = command.Command(
    name="style.studio",
    usage=__doc__ or "",
    define_flags=define_flags,
    settings=StudioSettings,
    required=("model", "takes"),
    work=_start,
    less_memory="Make smaller pictures.",
)
main, console = COMMAND.main, COMMAND.console

if __name__ == "__main__":
    console()
