"""Pseudonyms: keyed, one-way names for patients, UIDs, sites and files, and the secret key they depend on."""

import base64
import contextlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import PrivacyError
from pipeline.core.places import standing_at

KEY_BYTES = 32
_PATIENT_CHARACTERS = 12  # of base32: 60 bits, so that a million patients collide with probability 4e-7
_SITE_CHARACTERS = 6  # of base16: sites are few
_FILE_CHARACTERS = 16
# The version and variant bits of RFC 9562 (UUID version 8, "custom"): DICOM allows 2.25.X only where X is a UUID.
_UUID_CLEAR = ~((0xF << 76) | (0x3 << 62))
_UUID_SET = (0x8 << 76) | (0x2 << 62)


@dataclass(frozen=True)
class Pseudonyms:
    """Turn identifiers into pseudonyms with a secret key.

    The same key and the same identifier always give the same pseudonym, whatever else is in the archive, so
    that studies taken in later join those taken in before. Without the key a pseudonym cannot be traced or
    even guessed at. Every purpose has its own family of values: equal texts used as patient ID and as
    institution do not give related pseudonyms.

    Leading and trailing blanks and NULs, which DICOM uses as padding (PS3.5, section 6.2), do not count.

    Parameters
    ----------
    key
        32 secret bytes (see `read_or_create_key`).

    References
    ----------
    RFC 2104 (HMAC); PS3.5, section B.2 (UUID-derived UIDs).

    Examples
    --------
    >>> pseudonyms = Pseudonyms(bytes(32))
    >>> pseudonyms.patient("12345") == pseudonyms.patient("12345 ")
    True
    >>> pseudonyms.uid("1.2.3")[:5], pseudonyms.site("")
    ('2.25.', '')
    """

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            message = f"a key has {KEY_BYTES} bytes, not {len(self.key)}"
            raise PrivacyError(message)

    def __repr__(self) -> str:
        """Hide the key: representations end in error messages."""
        return "Pseudonyms(key=...)"

    def patient(self, patient_id: str) -> str:
        """Name a patient: ``P`` and twelve characters of base32."""
        return "P" + base64.b32encode(self._digest("patient", _stripped(patient_id))).decode()[:_PATIENT_CHARACTERS]

    def uid(self, uid: str) -> str:
        """Replace a UID by one below ``2.25`` (at most 44 characters), one to one."""
        number = int.from_bytes(self._digest("uid", _stripped(uid))[:16], "big")
        return f"2.25.{number & _UUID_CLEAR | _UUID_SET}"

    def site(self, institution: str) -> str:
        """Name an institution; spelling in capitals and repeated blanks make no difference. Empty for empty."""
        name = " ".join(_stripped(institution).casefold().split())
        return f"site-{self._digest('site', name).hex()[:_SITE_CHARACTERS]}" if name else ""

    def file(self, relative_path: str) -> str:
        """Name a file of the source folder by its path below that folder."""
        return f"file-{self._digest('file', relative_path).hex()[:_FILE_CHARACTERS]}"

    def label_key(self, column: str, value: str) -> str:
        """Turn a key of the label table into the pseudonym that images carry.

        Parameters
        ----------
        column
            ``PatientID``, or the keyword of a UID (``StudyInstanceUID``, ``SeriesInstanceUID``, ``SOPInstanceUID``).
        value
            The cell.
        """
        return self.patient(value) if column == "PatientID" else self.uid(value)

    def date_shift_days(self, patient_id: str, largest: int) -> int:
        """Give the number of days, from 1 to `largest`, by which a patient's dates move back."""
        number = int.from_bytes(self._digest("date shift", _stripped(patient_id))[:16], "big")
        return 1 + number % largest

    def _digest(self, purpose: str, value: str) -> bytes:
        # surrogatepass: file names that are not UTF-8 reach Python as lone surrogates
        message = f"{purpose}\x1f{value}".encode("utf-8", "surrogatepass")
        return hmac.digest(self.key, message, "sha256")


def read_or_create_key(path: Path) -> bytes:
    """Read the secret key, or make one if there is none yet.

    The file holds 64 hexadecimal digits and can be read by its owner only. Two processes that make it at
    the same time end with the same key.

    Parameters
    ----------
    path
        Where the key stands. Missing folders are made, readable by their owner only.

    Raises
    ------
    PrivacyError
        If the file can be read by others, or does not hold such a key.
    """
    if standing_at(path) == "nothing":
        _create(path)
    return read_key(path)


def read_key(path: Path) -> bytes:
    """Read the secret key, which must be there.

    Raises
    ------
    PrivacyError
        As `read_or_create_key`.
    """
    try:
        # Only the mode of what is read counts: the key may be a link into a mounted secret.
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(2 * KEY_BYTES + 3)
    except OSError as error:
        what = f"cannot read the key ({error.strerror})"
        raise PrivacyError(what, where=str(path), remedy="check the path and its permissions") from error
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PrivacyError("others can read the secret key", where=str(path), remedy="chmod 600 that file")
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        what = f"a key file holds {2 * KEY_BYTES} hexadecimal digits; this one does not"
        raise PrivacyError(what, where=str(path), remedy="name another file, or remove it to have a new key made")
    return key


def close_to_others(folder: Path) -> None:
    """Make a folder, if need be, that only its owner can enter.

    Raises
    ------
    PrivacyError
        If it cannot be closed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        what = f"cannot close the folder to others ({error.strerror})"
        raise PrivacyError(what, where=str(folder), remedy="use a folder of your own") from error


def _create(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename, never replaces the key of somebody faster
    except OSError as error:
        what = f"cannot make the key ({error.strerror})"
        raise PrivacyError(what, where=str(path), remedy="check the folder and its permissions") from error
    finally:
        with contextlib.suppress(OSError):  # nothing was made where nothing can be
            temporary.unlink()


def _stripped(value: str) -> str:
    return value.strip(" \0\t\r\n")
