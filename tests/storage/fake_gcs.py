"""A stand-in for Google Cloud Storage on loopback, which real clients talk to: objects in memory, and faults on demand.

It speaks what TensorStore, gcsfs and google-cloud-storage use of the JSON API: uploads (media, multipart, resumable), ranged
reads, metadata, listing by prefix and delimiter in pages, delete, copy, move, conditions on the generation. An object is
replaced at once by a whole upload, or stays as it was, as there.

    python -m tests.storage.fake_gcs PORT      serves until it is ended (for trying things out by hand)
"""
import base64
import datetime
import hashlib
import http.server
import json
import random
import re
import select
import socket
import struct
import sys
import threading
import time
import urllib.parse
from typing import NamedTuple

KINDS = ('429', '503', 'slow', 'cut', 'lost', 'silent')
SLOW = 1.5  # seconds
LIMIT = 2.0  # seconds without a byte after which the tests' clients are to give up (BIGJAX_STORE_SILENCE)
SILENT = 4 * LIMIT  # seconds for which nothing comes
PAGE = 50  # objects on a page of a listing, few enough that there are several


class Object(NamedTuple):
    """One version of an object."""

    data: bytes
    generation: int
    when: float


class Faults:
    """What goes wrong, drawn anew for each request.

    Args:
      rate: the share of requests that something happens to.
      kinds: of `KINDS`: an answer 429 or 503 (or any other number), an answer that comes late, a connection that is cut while a
        request is read (it is not carried out), an answer that is cut (the request was carried out), none within the time
        that a client waits (it is not carried out).
      seed: of the draws.
      first: requests that are left alone before it begins.
      where: a regular expression on 'METHOD path': of the requests that it matches.
      message: in the answers that are errors.

    Attributes:
      injected: how often each kind was drawn. waited: for how many seconds clients waited for an answer that never came.
    """

    def __init__(self, rate=0.0, kinds=KINDS, seed=0, first=0, where='', message='injected'):
        self.message, self.waited = message, []
        self._rate, self._kinds, self._rng, self._first, self._where = rate, kinds, random.Random(seed), first, where
        self.injected = dict.fromkeys(KINDS, 0)

    def draw(self, request: str) -> str:
        """One of `KINDS`, or ''."""
        if not re.search(self._where, request):
            return ''
        self._first -= 1
        if self._first >= 0 or self._rng.random() >= self._rate:
            return ''
        kind = self._rng.choice(self._kinds)
        self.injected[kind] = self.injected.get(kind, 0) + 1
        return kind


class FakeGCS:
    """The server, in threads of this process, while it is entered.

    Attributes:
      objects: {(bucket, name): Object}.
      faults: `Faults`; may be replaced at any time.
      requests: [(method, path)] that were carried out.
    """

    def __init__(self, port: int = 0, buckets=('bucket',)):
        self.buckets, self.objects, self.uploads, self.faults, self.requests = set(buckets), {}, {}, Faults(), []
        self.lock, self._generation = threading.RLock(), int(time.time() * 1e6)
        handler = type('Handler', (Handler,), {'store': self})
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', port), handler)
        self._server.daemon_threads, self._server.handle_error = True, lambda *a: None
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def env(self) -> dict[str, str]:
        """The variables that make clients come here, without credentials."""
        return {'STORAGE_EMULATOR_HOST': self.url, 'TENSORSTORE_GCS_HTTP_URL': self.url, 'GCE_METADATA_ROOT': self.url[7:],
                'FSSPEC_GCS_TOKEN': 'anon', 'FSSPEC_GS_TOKEN': 'anon', 'NO_GCE_CHECK': 'true',
                'GOOGLE_APPLICATION_CREDENTIALS': '', 'CLOUDSDK_CONFIG': '/nonexistent'}

    def put(self, bucket: str, name: str, data: bytes) -> Object:
        """Replaces an object."""
        with self.lock:
            self._generation += 1
            self.objects[bucket, name] = found = Object(bytes(data), self._generation, time.time())
            return found

    def names(self, prefix: str = '', bucket: str = 'bucket') -> list[str]:
        """The objects under a prefix, sorted."""
        with self.lock:
            return sorted(n for b, n in self.objects if b == bucket and n.startswith(prefix))


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version, store = 'HTTP/1.1', None
    disable_nagle_algorithm = True

    def log_message(self, *args):
        """Says nothing."""

    def _any(self):
        fault = self.store.faults.draw(f'{self.command} {self.path}')
        length = int(self.headers.get('Content-Length') or 0)
        if fault == 'cut':
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self._chunked() if 'chunked' in self.headers.get('Transfer-Encoding', '') else self.rfile.read(length)
        if len(body) < length and 'chunked' not in self.headers.get('Transfer-Encoding', ''):
            return self._hang_up()  # the client left in the middle
        if fault.isdigit():
            return self._answer(int(fault), {'error': {'code': int(fault), 'message': self.store.faults.message}})
        if fault == 'silent':
            self.store.faults.waited.append(self._wait())
            return self._hang_up()
        if fault == 'slow':
            time.sleep(SLOW)
        self._lost = fault == 'lost'
        url = urllib.parse.urlsplit(self.path)
        self.query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query, keep_blank_values=True).items()}
        with self.store.lock:
            self.store.requests.append((self.command, self.path))
        parts = [urllib.parse.unquote(p) for p in url.path.strip('/').split('/')]
        try:
            self._route(parts, body)
        except KeyError:
            self._answer(404, {'error': {'code': 404, 'message': 'Not Found'}})

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any

    def _chunked(self) -> bytes:
        body = b''
        while size := int(self.rfile.readline().split(b';')[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _wait(self) -> float:
        """Says nothing for `SILENT` seconds, or until the client leaves; how long that was."""
        began = time.monotonic()
        while time.monotonic() - began < SILENT:
            if select.select([self.connection], [], [], 0.1)[0]:  # there is something to read: the end
                break
        return time.monotonic() - began

    def _hang_up(self):
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))  # a reset, no farewell
        self.connection.close()

    def _answer(self, code: int, value=None, data: bytes = b'', headers=()):
        if getattr(self, '_lost', False):
            return self._hang_up()
        body = json.dumps(value).encode() if value is not None else data
        self.send_response(code)
        self.send_header('Content-Type', 'application/json' if value is not None else 'application/octet-stream')
        self.send_header('Content-Length', str(len(body)))
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def _route(self, parts: list[str], body: bytes):
        while parts and parts[0] in ('upload', 'download', 'resumable'):
            if parts.pop(0) == 'resumable':
                return self._resume(parts[0], body)
        if parts[:3] != ['storage', 'v1', 'b'] or len(parts) < 4:
            raise KeyError
        bucket, rest = parts[3], parts[4:]
        if bucket not in self.store.buckets:
            raise KeyError
        if not rest:
            return self._answer(200, {'kind': 'storage#bucket', 'name': bucket, 'id': bucket})
        if rest[0] != 'o':
            raise KeyError
        if len(rest) == 1:
            return self._upload(bucket, body) if self.command == 'POST' else self._list(bucket)
        for verb in ('rewriteTo', 'copyTo', 'moveTo'):
            if verb in rest:
                return self._copy(bucket, rest, rest.index(verb))
        return self._object(bucket, '/'.join(rest[1:]))

    def _facts(self, bucket: str, name: str, o: Object) -> dict:
        when = datetime.datetime.fromtimestamp(o.when, datetime.UTC).isoformat().replace('+00:00', 'Z')
        return {'kind': 'storage#object', 'name': name, 'bucket': bucket, 'size': str(len(o.data)), 'metageneration': '1',
                'generation': str(o.generation), 'updated': when, 'timeCreated': when,
                'contentType': 'application/octet-stream',
                'md5Hash': base64.b64encode(hashlib.md5(o.data).digest()).decode()}

    def _refused(self, bucket: str, name: str) -> bool:
        """Answers 412 where the conditions on the generation do not hold."""
        o = self.store.objects.get((bucket, name))
        now = str(o.generation) if o else '0'
        if self.query.get('ifGenerationMatch', now) != now:
            self._answer(412, {'error': {'code': 412, 'message': 'conditionNotMet'}})
        elif self.query.get('ifGenerationNotMatch', '-1') == now:
            self._answer(304)
        else:
            return False
        return True

    def _object(self, bucket: str, name: str):
        with self.store.lock:
            if self._refused(bucket, name):
                return None
            o = self.store.objects[bucket, name]
            if self.command == 'DELETE':
                del self.store.objects[bucket, name]
                return self._answer(204)
        if self.query.get('generation', str(o.generation)) != str(o.generation):
            raise KeyError
        if self.query.get('alt') != 'media':
            return self._answer(200, self._facts(bucket, name, o))
        about = [('x-goog-generation', str(o.generation)), ('x-goog-stored-content-length', str(len(o.data))), ('ETag', 'x')]
        asked = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
        if not asked:
            return self._answer(200, data=o.data, headers=about)
        first, last = asked.groups()
        start = int(first) if first else max(0, len(o.data) - int(last))
        stop = min(len(o.data), int(last) + 1) if first and last else len(o.data)
        if start >= len(o.data):
            return self._answer(416, {'error': {'code': 416, 'message': 'The requested range is not satisfiable'}})
        return self._answer(206, data=o.data[start:stop],
                            headers=[*about, ('Content-Range', f'bytes {start}-{stop - 1}/{len(o.data)}')])

    def _list(self, bucket: str):
        q = self.query
        prefix, delimiter, after = q.get('prefix', ''), q.get('delimiter', ''), q.get('pageToken', '')
        items, prefixes, last = [], [], ''
        with self.store.lock:
            found = [(n, self.store.objects[bucket, n]) for n in self.store.names(prefix, bucket)]
        for name, o in found:
            if name < q.get('startOffset', '') or (q.get('endOffset') and name >= q['endOffset']):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            key = name[:cut + len(delimiter)] if cut >= 0 else name
            if key <= after:
                continue
            if len(items) + len(prefixes) >= min(PAGE, int(q.get('maxResults', PAGE))) and key not in prefixes:
                return self._answer(200, {'items': items, 'prefixes': prefixes, 'nextPageToken': last})
            last = key
            if cut < 0:
                items.append(self._facts(bucket, name, o))
            elif key not in prefixes:
                prefixes.append(key)
        return self._answer(200, {'kind': 'storage#objects', 'items': items, 'prefixes': prefixes})

    def _upload(self, bucket: str, body: bytes):
        kind, name = self.query.get('uploadType'), self.query.get('name', '')
        if kind == 'resumable':
            name = name or json.loads(body)['name']
            with self.store.lock:
                key = f'{len(self.store.uploads)}-{random.getrandbits(32)}'
                self.store.uploads[key] = (bucket, name, bytearray())
            return self._answer(200, {}, headers=[('Location', f'{self.store.url}/resumable/{key}')])
        if kind == 'multipart':
            mark = re.search('boundary="?([^";]+)"?', self.headers['Content-Type'])[1].encode()
            about, data = (re.split(rb'\r?\n\r?\n', part, maxsplit=1)[1] for part in body.split(b'--' + mark)[1:3])
            name, body = json.loads(about)['name'], data[:-2] if data.endswith(b'\r\n') else data[:-1]
        with self.store.lock:
            if self._refused(bucket, name):
                return None
            return self._answer(200, self._facts(bucket, name, self.store.put(bucket, name, body)))

    def _resume(self, key: str, body: bytes):
        bucket, name, data = self.store.uploads[key]
        if self.command == 'DELETE':
            del self.store.uploads[key]
            return self._answer(499)
        first, total = re.fullmatch(r'bytes (?:(\d+)-\d+|\*)/(\d+|\*)', self.headers['Content-Range']).groups()
        if first is not None:
            data[int(first):] = body
        if total != '*' and len(data) == int(total):
            return self._answer(200, self._facts(bucket, name, self.store.put(bucket, name, bytes(data))))
        return self._answer(308, headers=[('Range', f'bytes=0-{len(data) - 1}')] if data else [])

    def _copy(self, bucket: str, rest: list[str], at: int):
        verb, source = rest[at], '/'.join(rest[1:at])
        target = (bucket, '/'.join(rest[at + 2:])) if verb == 'moveTo' else (rest[at + 2], '/'.join(rest[at + 4:]))
        with self.store.lock:
            o = self.store.put(*target, self.store.objects[bucket, source].data)
            if verb == 'moveTo':
                del self.store.objects[bucket, source]
        facts = self._facts(*target, o)
        return self._answer(200, facts if verb != 'rewriteTo' else {
            'kind': 'storage#rewriteResponse', 'done': True, 'resource': facts, 'objectSize': facts['size'],
            'totalBytesRewritten': facts['size']})


if __name__ == '__main__':
    with FakeGCS(int(sys.argv[1])) as server:
        print('\n'.join(f'export {k}={v}' for k, v in server.env().items()), flush=True)
        threading.Event().wait()
