"""Any OpenAI-compatible server as an engine: vLLM, SGLang, llama-server, `transformers serve`.

Chat completions at temperature 0, several under way at once. The client tries again, with back-off, what a server may
get over: 408, 409, 429, 5xx, a lost connection, a time-out. What this does not know: the server's tokenizer and window.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from argo.calls import Call, Failure, Reply
from argo.schema import ArgoConfig
from suite.errors import UserError

log = logging.getLogger(__name__)

RETRIES = 5  # waits of 0.5, 1, 2, 4 and 8 s, or what the server asks for
WINDOW = 8192  # a server of less refuses the longer prompts, each in a sentence
BYTES_PER_TOKEN = 3.0  # English has 4 and more, but acronyms, digits and other scripts fewer
AHEAD = 4  # calls handed over for each request under way, so that the slowest keeps few others waiting
PASSING = {408, 409, 429}  # client errors that a server gets over
REASON = 200  # most characters of what a server says


class OpenAIEngine:
    """An `argo.calls.Engine` at `task.server_url`. Nothing is asked before there is a call.

    The key comes from the environment variable `task.server_key_env`, and goes nowhere but into the requests' header.
    """

    def __init__(self, task: ArgoConfig) -> None:
        self.url, self.model, self.key_env = task.server_url, task.server_model, task.server_key_env
        self.requests, self.window = task.server_requests, WINDOW
        self.batch = AHEAD * self.requests
        # two servers may call different weights by one name
        self.identity: dict[str, Any] = {"engine": "openai", "url": self.url, "model": self.model}
        self._client = openai.OpenAI(
            base_url=self.url,
            api_key=os.environ.get(self.key_env) or "none",
            timeout=task.server_timeout_s,
            max_retries=RETRIES,
        )
        self._reached = False
        self._down = False

    def tokens(self, text: str) -> int:
        """An upper estimate for English, from the bytes: the server's tokenizer is not known here."""
        return int(len(text.encode()) / BYTES_PER_TOKEN) + 1

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """See `Engine`.

        Raises:
            UserError: the server cannot be reached at all, wants another key, or has no such model.
        """
        if not calls:
            return []
        if not self._reached:
            self._reach()
        pool = ThreadPoolExecutor(self.requests)
        try:
            return list(pool.map(self._ask, calls))
        finally:
            pool.shutdown(cancel_futures=True)

    def _reach(self) -> None:
        """Ask for a single token, so that a wrong address, model or key costs one sentence and not every call its own.

        Servers tell a wrong model by 404, 400 or 422, and not all of them list the models they have.
        """
        try:
            self._client.with_options(max_retries=1).chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": "Hello"}], temperature=0.0, max_tokens=1
            )
        except openai.APITimeoutError:
            pass  # it is there, and may be loading
        except openai.APIConnectionError as error:
            raise UserError(
                f"No server answers at task.server_url={self.url} ({_cause(error)}); start it, or give its address."
            ) from error
        except openai.APIStatusError as error:
            if error.status_code < 500 and error.status_code not in PASSING:
                raise UserError(
                    f"The server at {self.url} refuses task.server_model={self.model} with status {error.status_code} "
                    f"({_said(error)}); give the name that it has for the model, and its key in the environment "
                    f"variable {self.key_env} (task.server_key_env)."
                ) from error
        except ValueError:
            pass  # no JSON: each call says so itself
        self._reached = True

    def _ask(self, call: Call) -> Reply | Failure:
        """One call, after all retries; of a server that has gone no more than one."""
        client = self._client.with_options(max_retries=0) if self._down else self._client
        try:
            raw = client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": call.prompt}],
                temperature=0.0,
                max_tokens=call.max_new_tokens,
                stop=list(call.stop) or openai.omit,
            )
        except openai.APITimeoutError:
            return Failure(error=f"The server gave no answer within task.server_timeout_s, {RETRIES + 1} times.")
        except openai.APIConnectionError as error:
            if not self._down:
                log.warning("The server at %s is gone (%s); its calls fail until it is back.", self.url, _cause(error))
            self._down = True
            return Failure(error=f"The connection to the server was lost ({_cause(error)}); start it and run again.")
        except openai.APIStatusError as error:
            return Failure(error=f"The server refused with status {error.status_code} ({_said(error)}).")
        self._down = False
        try:
            return _reply(raw.http_response.json(), call, 1e3 * raw.elapsed.total_seconds())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Failure(error=f"The server's answer is no chat completion ({_short(raw.text)}).")


def _reply(body: Any, call: Call, latency_ms: float) -> Reply | Failure:
    """What a completion says; raises whatever the access raises where it is none."""
    choice, usage = body["choices"][0], body["usage"]
    text = choice["message"]["content"]
    if not text or not text.strip():
        return Failure(error="The server's answer is empty; a model that thinks first needs more task.max_new_tokens.")
    cut = min((at for stop in call.stop if (at := text.find(stop)) >= 0), default=len(text))
    return Reply(
        text=text[:cut].strip(),
        prompt_tokens=int(usage["prompt_tokens"]),
        completion_tokens=int(usage["completion_tokens"]),
        latency_ms=latency_ms,
        finish="length" if choice["finish_reason"] == "length" and cut == len(text) else "stop",
    )


def _cause(error: Exception) -> str:
    """What lies under the client's own words, `Connection error.`, as far as told."""
    return _short(str(error.__cause__ or error))


def _said(error: openai.APIStatusError) -> str:
    """The server's own words."""
    body = error.body
    told = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return _short(str(told or error.response.text or error))


def _short(text: str) -> str:
    """One line of it."""
    line = " ".join(text.split())
    return line if len(line) <= REASON else f"{line[:REASON]}..."
