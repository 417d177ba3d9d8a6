"""`--endpoint`: paths from an OpenAI-compatible server instead of a model on this machine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trueplex.cli.groups import ModelOptions
from trueplex.errors import InputError, OptionError
from trueplex.files import text_of

if TYPE_CHECKING:
    from trueplex.solving.endpoint import Server

PANEL = "Another server as the model"
SHARED = ("system", "instruction", "template_arg")  # of the model's options, those that a server takes as well
TIMEOUT = 300.0


@dataclass(frozen=True)
class ModelOrEndpoint(ModelOptions):
    """A model on this machine, or one that a server has."""

    endpoint: Annotated[str | None, typer.Option(rich_help_panel=PANEL, help="Sample plain paths from this OpenAI-compatible server (vLLM, SGLang, llama.cpp, trueplex serve): its address, such as http://127.0.0.1:8000/v1.", show_default="none")] = None  # fmt: skip
    served_model: Annotated[str | None, typer.Option(rich_help_panel=PANEL, help="The model's name on that server.", show_default="the only one")] = None  # fmt: skip
    endpoint_key_file: Annotated[Path | None, typer.Option(rich_help_panel=PANEL, help="File with the API key.", show_default="the environment variable OPENAI_API_KEY")] = None  # fmt: skip
    endpoint_timeout: Annotated[float | None, typer.Option(rich_help_panel=PANEL, help="Seconds of silence after which a request counts as lost.", show_default="300")] = None  # fmt: skip

    def __post_init__(self) -> None:
        own = [field for field in fields(ModelOrEndpoint) if field.name not in SHARED and field.name != "endpoint"]
        for field in own:
            of_endpoint = field.name in ("served_model", "endpoint_key_file", "endpoint_timeout")
            if getattr(self, field.name) != field.default and of_endpoint == (self.endpoint is None):
                missing = "without" if of_endpoint else "beside"
                hint = "give the server's address" if of_endpoint else "drop one of them"
                raise OptionError(f"--{field.name.replace('_', '-')} has no effect {missing} --endpoint. Try: {hint}")

    def connect(self, most: int | None) -> Server:
        """The server, asked for its models; ``most`` requests at once.

        Raises:
            EndpointError: it cannot be used.
            InputError: the file of the key cannot be read, or holds none.
            MissingExtra: the extra ``endpoint`` is not installed.
        """
        from trueplex.models.prompt import PromptOptions
        from trueplex.solving.endpoint import Endpoint, Server

        assert self.endpoint is not None
        timeout = TIMEOUT if self.endpoint_timeout is None else self.endpoint_timeout
        asked = self.prompting() or PromptOptions()
        return Server(Endpoint(self.endpoint, self.served_model, self._key(), timeout, most or Endpoint.most, asked))

    def _key(self) -> str | None:
        if self.endpoint_key_file is None:
            return None
        try:
            key = text_of(self.endpoint_key_file).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {self.endpoint_key_file} ({error}). Try: check the path") from error
        if not key or not key.isascii() or len(key.split()) > 1:
            raise InputError(f"{self.endpoint_key_file} holds no single key. Try: the key on one line")
        return key
