"""The secret by which services know each other where they speak HTTP."""

from services.kit.config import BadConfiguration, Settings


def check_internal(settings: Settings) -> None:
    """Raise BadConfiguration if users have tokens, and services have nothing.

    Whoever could act for a service could then act for every user.
    """
    if settings.AUTH == "jwt" and settings.INTERNAL_TOKEN is None:
        raise BadConfiguration("config.yaml: INTERNAL_TOKEN: should be given, as AUTH is jwt and services speak HTTP")
