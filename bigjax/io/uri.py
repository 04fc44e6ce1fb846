"""Names of files and folders: a local path, or gs://BUCKET/FOLDER in an object store. Nothing is opened here."""
import re
import urllib.parse

from bigjax.errors import UserError
from bigjax.io.text import printable

SCHEME = 'gs://'
OURS, FOREIGN = ('gs', 'gcs'), ('s3', 's3a')  # also `gs:BUCKET`, without slashes, is not a local folder
_URL = re.compile(r'([a-z][a-z0-9+.:-]+?):(/*)(.*)', re.IGNORECASE | re.DOTALL)


def remote(path) -> bool:
    """Whether a path, as `named` gives it, is in a store."""
    return str(path).startswith(SCHEME)


def url(text: str) -> bool:
    """Whether a text is meant as a URL: a scheme and at least one slash (joining paths turns two into one)."""
    found = _URL.match(text)
    return '://' in text or bool(found and (found[2] or found[1].lower() in OURS + FOREIGN))


def named(name) -> str:
    """A local path, or `gs://BUCKET/…`, from any spelling (gcs://, GS://, file:///).

    Raises:
      UserError: the scheme is not known, or the name holds a user and a password.
    """
    text = str(name)
    if '\0' in text:
        raise UserError(f'{printable(text)}: a name cannot hold a null character; remove it', code='storage/name')
    if not url(text):
        return text
    found, shown = _URL.match(text), masked(text)
    if shown != printable(text) and '***@' in shown:
        raise UserError(f'{shown}: a name is printed and recorded, so it must not hold a user and a password; remove '
                        'them', code='storage/password')
    scheme, slashes, rest = (found[1].lower(), found[2], found[3]) if found else ('', '', '')
    if scheme == 'file':
        return _local(shown, slashes, rest)
    if scheme in OURS and slashes == '//' and rest.strip('/'):
        return SCHEME + rest.rstrip('/')
    if scheme in OURS:
        fix = SCHEME + (printable(rest.strip('/')) or 'BUCKET/FOLDER')
        raise UserError(f'{shown}: this is not the name of a store; write {fix}, or the whole path of a local folder',
                        code='storage/name')
    raise UserError(f'{shown}: a folder of the file system, or {SCHEME}BUCKET/FOLDER; mount another kind of bucket '
                    '(mountpoint-s3, …) and name the folder', code='storage/scheme')


def _local(shown: str, slashes: str, rest: str) -> str:
    """The path in file:/PATH, file:///PATH or file://localhost/PATH, percent-encoded or not."""
    host, slash, path = rest.partition('/') if slashes == '//' else ('', '/' if slashes else '', rest)
    if host not in ('', 'localhost') or not slash or '\0' in urllib.parse.unquote(path):
        raise UserError(f'{shown}: it is not a local folder; write file:///FOLDER, or the folder alone', code='storage/name')
    return '/' + urllib.parse.unquote(path)


def masked(text: str) -> str:
    """A URL without the user, the password and the query, where signatures are: safe to print."""
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
