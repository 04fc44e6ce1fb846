"""A stand-in for Google's TPU API: a model of what it keeps, and two ways to it.

    cloud = Cloud(workers=2)                  the model: queued resources and nodes, whose states advance with every look
    cloud.gcloud                              instead of launch.engines.tpu_vm.gcloud.execute: takes its arguments
    with serve(cloud, netns) as url:          the REST API for the real gcloud, on the loopback of a network namespace

Every look at a thing moves it one state on along `queue_path` or `node_path`; the last state stays. What tests look at:

    cloud.live         names of all that would be paid for
    cloud.log          'POST queuedResources/exp7', …: what was asked to change
    cloud.bodies       what was asked for
    cloud.preempt()    takes everything away, as from a spot slice
"""
import contextlib
import ctypes
import http.server
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence

QUEUE_PATH = 'CREATING', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'
NODE_PATH = 'CREATING', 'READY'
TYPES = ('v5litepod-16', 'v5litepod-8', 'v6e-8')


class Error(Exception):
    """An error of the API."""

    def __init__(self, code: int, status: str, message: str):
        super().__init__(message)
        self.code, self.status, self.message = code, status, message


class Cloud:
    """See above.

    Args:
      addresses: of the machines of each node, in turn.
      made, gone: called with a node's name when its machines come and go.
      keys: called with the SSH keys that a node is given.
    """

    def __init__(self, addresses: Sequence[str] = ('10.0.0.1', '10.0.0.2'), queue_path: Sequence[str] = QUEUE_PATH,
                 node_path: Sequence[str] = NODE_PATH, made: Callable = lambda name: None, gone: Callable = lambda name: None,
                 keys: Callable = lambda text: None):
        self.addresses, self.queue_path, self.node_path = tuple(addresses), list(queue_path), list(node_path)
        self.made, self.gone, self.keys = made, gone, keys
        self.deletion_looks = 1  # for so many looks a thing is DELETING
        self.refuse: dict[str, Error] = {}  # 'POST queuedResources' -> instead of doing it
        self.failure = ''  # the message of a FAILED queued resource
        self.queues: dict[str, dict] = {}
        self.nodes: dict[str, dict] = {}
        self.operations: dict[str, str] = {}
        self.log: list[str] = []
        self.bodies: list[dict] = []
        self.lock = threading.RLock()
        self._count = 0

    @property
    def live(self) -> list[str]:
        with self.lock:
            return sorted([f'queuedResources/{name}' for name in self.queues] + [f'nodes/{name}' for name in self.nodes])

    @property
    def states(self) -> set[str]:
        """The names and states of all resources."""
        with self.lock:
            return {q['state']['state'] for q in self.queues.values()} | {n['state'] for n in self.nodes.values()}

    def preempt(self) -> None:
        with self.lock:
            for queue in self.queues.values():
                queue['state'] = {'state': 'SUSPENDED', 'stateInitiator': 'SERVICE'}
            for name, node in self.nodes.items():
                node['state'] = 'PREEMPTED'
                self.gone(name)

    def do(self, method: str, path: str, query: dict[str, str], body: dict) -> dict:
        """One request; `path` begins after the location: 'queuedResources/exp7'."""
        with self.lock:
            kind, _, name = path.partition('/')
            if name.endswith(':getGuestAttributes'):
                return {'guestAttributes': []}
            if method != 'GET':
                self.log.append(f"{method} {kind}/{name or query.get('queuedResourceId') or query.get('nodeId')}")
            if refused := self.refuse.get(f'{method} {kind}'):
                raise refused
            return getattr(self, f'_{method.lower()}_{kind}')(name, query, body)

    # nodes and queued resources: POST, GET (one, or a list), DELETE; nodes also PATCH

    def _post_queuedResources(self, _, query, body):
        name = query['queuedResourceId']
        if name in self.queues:
            raise Error(409, 'ALREADY_EXISTS', f"Resource 'projects/p/locations/z/queuedResources/{name}' already exists")
        self.bodies.append(body)
        self.queues[name] = {**body, 'name': f'queuedResources/{name}', 'state': {'state': self.queue_path[0]},
                             'path': list(self.queue_path[1:])}
        return self._operation(f'queuedResources/{name}')

    def _post_nodes(self, _, query, body):
        name = query['nodeId']
        if name in self.nodes:
            raise Error(409, 'ALREADY_EXISTS', f"Resource 'projects/p/locations/z/nodes/{name}' already exists")
        self.bodies.append(body)
        self._make(name, body, '')
        return self._operation(f'nodes/{name}')

    def _get_queuedResources(self, name, query, body):
        answer = self._public(self.queues, name, 'queuedResources')
        for key in [name] if name else list(self.queues):
            self._queue_moves(self.queues[key])
        return answer

    def _get_nodes(self, name, query, body):
        answer = self._public(self.nodes, name, 'nodes')
        for key in [name] if name else list(self.nodes):
            self._moves(self.nodes, key, self.nodes[key])
        return answer

    def _delete_queuedResources(self, name, query, body):
        queue = self._known(self.queues, name, 'queuedResources')
        own = self._nodes_of(name)
        if own and query.get('force', '').lower() != 'true' and queue['state']['state'] not in ('SUSPENDED', 'FAILED'):
            raise Error(400, 'FAILED_PRECONDITION', f'{name} has nodes')
        queue['state'], queue['path'] = {'state': 'DELETING'}, ['DELETING'] * self.deletion_looks + ['']
        return self._operation(f'queuedResources/{name}')

    def _delete_nodes(self, name, query, body):
        node = self._known(self.nodes, name, 'nodes')
        if node.get('queuedResource'):
            raise Error(400, 'FAILED_PRECONDITION', f"{name} belongs to a queued resource")
        node['state'], node['path'] = 'DELETING', ['DELETING'] * self.deletion_looks + ['']
        return self._operation(f'nodes/{name}')

    def _patch_nodes(self, name, query, body):
        node = self._known(self.nodes, name, 'nodes')
        node.setdefault('metadata', {}).update(body.get('metadata', {}))
        self.keys(body.get('metadata', {}).get('ssh-keys', ''))
        return self._operation(f'nodes/{name}')

    def _get_acceleratorTypes(self, name, query, body):
        return {'acceleratorTypes': [{'name': f'acceleratorTypes/{type}', 'type': type} for type in TYPES]}

    def _get_operations(self, name, query, body):
        thing = self.operations[name]
        kind, _, key = thing.partition('/')
        if kind == 'nodes' and key in self.nodes:
            self._moves(self.nodes, key, self.nodes[key])
        return self._operation(thing, name)

    def _operation(self, thing: str, name: str = '') -> dict:
        """An operation that creates a node is done once the node exists; all others are done at once."""
        self._count += 1
        name = name or f'operation-{self._count}'
        self.operations[name] = thing
        kind, _, key = thing.partition('/')
        busy = kind == 'nodes' and key in self.nodes and self.nodes[key]['state'] == 'CREATING'
        return {'name': f'operations/{name}', 'done': not busy, **({} if busy else {'response': {
            '@type': 'type.googleapis.com/google.cloud.tpu.v2.Node', 'name': thing}})}

    # the states

    def _queue_moves(self, queue):
        name = queue['name'].rpartition('/')[2]
        if queue['path']:
            state = queue['path'].pop(0)
            if state == '':
                for node in self._nodes_of(name):
                    del self.nodes[node]
                    self.gone(node)
                del self.queues[name]
                return
            queue['state'] = {'state': state}
            if state == 'FAILED':
                queue['state']['failedData'] = {'error': {'code': 8, 'message': self.failure}}
        if queue['state']['state'] in ('PROVISIONING', 'ACTIVE') and not self._nodes_of(name):
            for spec in queue['tpu']['nodeSpec']:
                several = spec.get('multisliceParams', {})
                prefix = several.get('nodeIdPrefix', name)
                for node in [spec['nodeId']] if 'nodeId' in spec else [f'{prefix}-{i}' for i in range(several['nodeCount'])]:
                    self._make(node, spec['node'], name)

    def _make(self, name, body, queue):
        self._count += 1
        ends = [{'ipAddress': address, 'port': 8470, 'accessConfig': {'externalIp': address}} for address in self.addresses]
        if queue_of := ({'queuedResource': f'queuedResources/{queue}'} if queue else {}):
            ends = ends if body.get('networkConfig', {}).get('enableExternalIps', True) else [
                {'ipAddress': end['ipAddress'], 'port': 8470} for end in ends]
        self.nodes[name] = {**body, **queue_of, 'name': f'nodes/{name}', 'state': self.node_path[0], 'id': str(self._count),
                            'health': 'HEALTHY', 'apiVersion': 'V2', 'createTime': f'2026-01-01T00:00:{self._count:02}Z',
                            'networkEndpoints': ends, 'path': list(self.node_path[1:])}
        self.made(name)

    def _moves(self, things, name, thing):
        if thing['path']:
            thing['state'] = thing['path'].pop(0)
            if thing['state'] == '':
                del things[name]
                self.gone(name)

    def _nodes_of(self, queue) -> list[str]:
        return [name for name, node in self.nodes.items() if node.get('queuedResource') == f'queuedResources/{queue}']

    def _known(self, things, name, kind):
        if name not in things:
            raise Error(404, 'NOT_FOUND', f"Resource 'projects/p/locations/z/{kind}/{name}' was not found")
        return things[name]

    def _public(self, things, name, kind):
        shown = {key: {k: v for k, v in thing.items() if k != 'path'} for key, thing in things.items()}
        if name:
            return self._known(shown, name, kind)
        return {kind: list(shown.values())} if shown else {}

    # in this process

    def gcloud(self, step, seconds, until=None) -> tuple[int, str, str]:
        """Instead of `launch.engines.tpu_vm.gcloud.execute`."""
        words = [word for word in step.argv[3:] if not word.startswith('--')]
        flags = dict(word[2:].partition('=')[::2] for word in step.argv if word.startswith('--'))
        kind, verb, name = words[0], *[*words[1:], ''][:2]
        try:
            if (kind, verb) == ('tpu-vm', 'ssh'):
                return 0, '', ''
            if (kind, verb) == ('tpu-vm', 'accelerator-types'):
                answer = self.do('GET', 'acceleratorTypes', {}, {})
            elif verb == 'list':
                answer = self.do('GET', 'nodes' if kind == 'tpu-vm' else 'queuedResources', {}, {})
            elif verb == 'delete':
                answer = self.do('DELETE', f"{'nodes' if kind == 'tpu-vm' else 'queuedResources'}/{name}",
                                 {'force': 'true' if 'force' in flags else ''}, {})
            else:
                answer = self._create(kind, name, flags)
        except Error as error:
            details = "\n- '@type': type.googleapis.com/google.rpc.ErrorInfo\n  reason: X"
            return 1, '', f"ERROR: (gcloud.compute.tpus.{'.'.join(words[:2])}) {error.status}: {error.message}{details}"
        return 0, json.dumps(next(iter(answer.values()), []) if verb in ('list', 'accelerator-types') else answer), ''

    def _create(self, kind, name, flags):
        node = {'acceleratorType': flags['accelerator-type'], 'labels': dict(
            pair.split('=') for pair in flags['labels'].split(','))}
        if kind == 'tpu-vm':
            return self.do('POST', 'nodes', {'nodeId': name}, {**node, 'runtimeVersion': flags['version']})
        node |= {'runtimeVersion': flags['runtime-version'],
                 'networkConfig': {'enableExternalIps': 'internal-ips' not in flags}}
        spec = {'node': node} | ({'nodeId': flags['node-id']} if 'node-id' in flags else {
            'multisliceParams': {'nodeCount': int(flags['node-count']), 'nodeIdPrefix': flags['node-prefix']}})
        return self.do('POST', 'queuedResources', {'queuedResourceId': name}, {'tpu': {'nodeSpec': [spec]}})


@contextlib.contextmanager
def serve(cloud: Cloud, netns: str) -> Iterator[str]:
    """The REST API at a free port of the loopback address inside of a named network namespace; yields 'http://…:PORT/'."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def answer(self):
            length = int(self.headers.get('content-length') or 0)
            body = json.loads(self.rfile.read(length) or '{}')
            url = urllib.parse.urlsplit(self.path)
            place = re.fullmatch(r'/v2(?:alpha1)?/(projects/[^/]+/locations/[^/]+)/(.+)', url.path)
            try:
                if place:
                    query = dict(urllib.parse.parse_qsl(url.query))
                    answer = _named(cloud.do(self.command, urllib.parse.unquote(place[2]), query, body), place[1])
                elif re.search(r'/compute/v1/projects/[^/]+$', url.path):
                    answer = {'kind': 'compute#project', 'name': 'p', 'commonInstanceMetadata': {'items': []}}
                else:
                    raise Error(404, 'NOT_FOUND', f'no such place {self.path}')
                code = 200
            except Error as error:
                code, answer = error.code, {'error': {'code': error.code, 'message': error.message, 'status': error.status}}
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header('content-type', 'application/json')
            self.send_header('content-length', str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):  # a gcloud that was killed
                self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_PATCH = answer

    server = _server_in(netns, Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_address[1]}/'
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _named(answer, location: str):
    """With the whole names that the API has: 'projects/p/locations/z/nodes/exp7'."""
    if isinstance(answer, dict):
        return {key: f'{location}/{value}' if key in ('name', 'queuedResource') and isinstance(value, str) else
                _named(value, location) for key, value in answer.items()}
    return [_named(value, location) for value in answer] if isinstance(answer, list) else answer


def _server_in(netns: str, handler) -> http.server.ThreadingHTTPServer:
    """A server whose socket belongs to a network namespace, served from this one; a thread goes there to open it."""
    made = []

    def open_it():
        folder = os.open(f'/run/netns/{netns}', os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(folder, 0):
                raise OSError(ctypes.get_errno(), f'setns {netns}')
            made.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
        finally:
            os.close(folder)

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join(10)
    return made[0]
