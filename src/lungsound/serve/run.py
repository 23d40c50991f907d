"""`lungsound serve` and `lungsound review`: a model is loaded, answers for a probe, and is served until a signal."""

import os
import socket
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from lungsound.errors import SettingsError
from lungsound.serve.limits import LOCAL_HOSTS, Limits

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
TOKEN_VARIABLE = "LUNGSOUND_TOKEN"
DEFAULT_PORT = 8000
MIN_TOKEN = 16


def serve(
    run: Path,
    *,
    folder: Path | None = None,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    token: str | None = None,
    device: str = "cpu",
    engine: str = "auto",
) -> None:
    """Serve a run over HTTP until SIGTERM or SIGINT, then finish what was begun.

    `folder` is for review: the page is of its recordings, the most doubtful first, and corrections are kept in it.
    `token` is what clients must show, default the environment variable LUNGSOUND_TOKEN. Raises SettingsError when the
    extra is missing, and for a port that is taken; what `Predictor.load` raises.
    """
    _require_extra()
    from lungsound.app.predictor import Predictor
    from lungsound.page import DISCLAIMER
    from lungsound.serve.application import Service, application
    from lungsound.serve.gathering import gathered
    from lungsound.serve.logs import log, log_uvicorn
    from lungsound.serve.reviewing import ReviewFolder
    from lungsound.serve.server import Server, warm

    token, limits = _token(token), limits or Limits()
    with closing(_bind(host, port)) as listening:
        log("start", note=DISCLAIMER.lower().rstrip("."))
        if host not in LOCAL_HOSTS and token is None:
            log("warning", message=f"whoever reaches {host} may ask: set {TOKEN_VARIABLE}, or serve 127.0.0.1 alone")
        predictor = Predictor.load(run, device=device, engine=engine)
        review_folder = None if folder is None else ReviewFolder(folder, predictor.trained.label_set)
        with closing(gathered(predictor.engine, predictor.device)) as shared:
            predictor.engine = shared
            service = Service(predictor, limits=limits, folder=review_folder)
            warm(service)
            log_uvicorn()
            app = application(service, token=token, is_local_only=host in LOCAL_HOSTS and token is None)
            address = f"http://{host}:{listening.getsockname()[1]}/"
            log("ready", address=address, model_sha256=predictor.trained.sha256, engine=shared.name)
            Server(service, app, timeout_s=limits.timeout_s).run(sockets=[listening])
    log("stop")


def _require_extra() -> None:
    for package in PACKAGES:
        if find_spec(package) is None:
            raise SettingsError(f"{package} is not installed, which the service needs: pip install 'lungsound[serve]'")


def _token(given: str | None) -> str | None:
    """The token, by option or environment. SettingsError for one that can be guessed or typed wrongly."""
    token = os.environ.get(TOKEN_VARIABLE) if given is None else given
    if token is None:
        return None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(
            f"a token has {MIN_TOKEN} characters or more of ASCII without blanks; got {len(token)} characters"
        )
    return token


def _bind(host: str, port: int) -> socket.socket:
    """A socket at the address, before the model is loaded: a port that is taken is known at once."""
    if not 0 <= port <= 65535:
        raise SettingsError(f"port {port}: ports are 1 to 65535, and 0 is any that is free")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise SettingsError(
            f"{host} port {port} cannot be served ({reason}); choose another --host or --port"
        ) from None
