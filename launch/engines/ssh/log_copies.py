"""The local copies of remote logs, byte for byte, and the record of where each begins."""
import json
import os
import pathlib

from bigjax.errors import UserError
from launch.job import Job


class Logs:
    """The local copies of the logs of a job's processes.

    A file may already have content from another job or machine: offsets.json in the job's folder records where the copy of
    each remote log begins.
    """

    def __init__(self, job: Job):
        self._folder = job.log_folder
        self._record, self._job = job.folder / 'offsets.json', f'{job.name} {job.created}'
        self._files: dict[int, int] = {}
        try:
            kept = json.loads(self._record.read_text())
        except (OSError, ValueError):
            kept = {}
        self._begins = kept['begins'] if kept.get('job') == self._job else {}

    def path(self, process: int) -> pathlib.Path:
        """The file of one process."""
        return self._folder / f'{process}.log'

    def first(self, process: int) -> int:
        """The position of this job's first byte."""
        return self._begins.get(str(process), [0, 0])[0]

    def offset(self, process: int) -> int:
        """The number of bytes of the remote log that are copied."""
        return os.fstat(self._file(process)).st_size - self._begins[str(process)][1]

    def write(self, process: int, data: bytes, at: int) -> None:
        """Writes the bytes at position `at` of the remote log to their own place: two launchers may both write them."""
        fd, rest = self._file(process), memoryview(data)
        place = self._begins[str(process)][1] + at
        while rest:
            done = os.pwrite(fd, rest, place)
            rest, place = rest[done:], place + done

    def renew(self, process: int) -> None:
        """Begins a new copy at the end of the file: the remote log was truncated."""
        size = os.fstat(self._file(process)).st_size  # `_file` first creates the record
        self._begins[str(process)][1] = size
        self._save()

    def close(self) -> None:
        """Closes all files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _file(self, process: int) -> int:
        if process not in self._files:
            path = self.path(process)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files[process] = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(f'{path}: cannot be written ({error.strerror}); fix: name another folder with --logs',
                                code='launch/not-writable') from None
            size = os.fstat(self._files[process]).st_size
            if self._begins.get(str(process), [0, size + 1])[1] > size:  # new, or deleted here since
                self._begins[str(process)] = [size, size]
                self._save()
        return self._files[process]

    def _save(self) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        draft = self._record.with_name(f'{self._record.name}.{os.getpid()}')
        draft.write_text(json.dumps({'job': self._job, 'begins': self._begins}))
        draft.replace(self._record)
