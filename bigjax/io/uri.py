"""What the name of a place says: a path of this machine, or gs://BUCKET/FOLDER in an object store. Nothing is opened here."""
import re
import urllib.parse

from bigjax.errors import UserError
from bigjax.io.text import printable

SCHEME = 'gs://'
OURS, FOREIGN = ('gs', 'gcs'), ('s3', 's3a')  # of these also `gs:BUCKET` is no folder of that name
_URL = re.compile(r'([a-z][a-z0-9+.:-]+?):(/*)(.*)', re.IGNORECASE | re.DOTALL)


def remote(path) -> bool:
    """Whether a path, as `named` gives it, is in a store."""
    return str(path).startswith(SCHEME)


def url(text: str) -> bool:
    """Whether a text is meant as a URL: a scheme and at least one slash, as what joins paths leaves of two."""
    found = _URL.match(text)
    return '://' in text or bool(found and (found[2] or found[1].lower() in OURS + FOREIGN))


def named(name) -> str:
    """A path of this machine, or `gs://BUCKET/…`, however it was written (gcs://, GS://, file:///).

    Raises:
      UserError: no store that is known, or a user and a password in the name.
    """
    text = str(name)
    if '\0' in text:
        raise UserError(f'{printable(text)}: a null character is in no name; write it without')
    if not url(text):
        return text
    found, shown = _URL.match(text), masked(text)
    if shown != printable(text) and '***@' in shown:
        raise UserError(f'{shown}: a user and a password do not belong in a name, which is printed and kept; take them out')
    scheme, slashes, rest = (found[1].lower(), found[2], found[3]) if found else ('', '', '')
    if scheme == 'file':
        return _local(shown, slashes, rest)
    if scheme in OURS and slashes == '//' and rest.strip('/'):
        return SCHEME + rest.rstrip('/')
    if scheme in OURS:
        mend = SCHEME + (printable(rest.strip('/')) or 'BUCKET/FOLDER')
        raise UserError(f'{shown}: no store is named so; write {mend}, or of a folder of this machine the whole path')
    raise UserError(f'{shown}: a folder of the file system, or {SCHEME}BUCKET/FOLDER; mount another kind of bucket '
                    '(mountpoint-s3, …) and name the folder')


def _local(shown: str, slashes: str, rest: str) -> str:
    """The path that file:/PATH, file:///PATH or file://localhost/PATH names; signs may be written as in %20."""
    host, slash, path = rest.partition('/') if slashes == '//' else ('', '/' if slashes else '', rest)
    if host not in ('', 'localhost') or not slash or '\0' in urllib.parse.unquote(path):
        raise UserError(f'{shown}: it names no folder of this machine; write file:///FOLDER, or the folder alone')
    return '/' + urllib.parse.unquote(path)


def masked(text: str) -> str:
    """A URL fit for printing: without the user and the password, and without what follows a '?', where signatures are."""
    found = re.match(r'(.*?:/+)(.*)', text, re.DOTALL)
    if not found:
        return printable(text)
    head, rest = found.groups()
    host = rest.partition('/')[0]
    if '@' in host or (':' in host and '@' in rest):  # a password may have slashes in it
        rest = '***@' + rest.rpartition('@')[2]
    elif re.search(r':(?!\d*$)', host):
        rest = '***' + rest[len(host):]
    if not head.lower().startswith(OURS):
        rest = re.sub(r'\?.*', '?***', rest, flags=re.DOTALL)
    return printable(head + rest)
