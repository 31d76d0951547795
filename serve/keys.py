"""The key that a request brings, read the same at every door."""

import binascii
from base64 import b64decode


def given_key(authorization):
    """Scheme in small letters and key of an Authorization header: a Bearer token, or the password
    of Basic. The key is empty where there is none.
    """
    scheme, _, rest = authorization.partition(" ")
    scheme, key = scheme.lower(), rest.strip()
    if scheme == "bearer":
        return scheme, key
    if scheme == "basic":
        try:
            return scheme, b64decode(key).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            pass
    return scheme, ""
