"""The command line of the launcher.

    python -m launch run --on=local:4 --max_restarts=3 -- python -m experiments.mnist1d --workdir=/tmp/m1d

exit 0 done · 2 the input is wrong · 3 a non-finite loss · 4 done, and the answer is no · 75 preempted, run it again ·
1 anything else; the same as those of an experiment, which the launcher passes on
"""
import datetime
import difflib
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from bigjax import UserError
from launch import local, outcome
from launch.lines import say
from launch.supervise import Limits, Result, Supervisor

ENGINES = {'local': local.parse}
EXAMPLE = 'python -m launch run --on=local:2 -- python -m experiments.mnist1d --workdir=/tmp/m1d'


def main(argv: Sequence[str]) -> int:
    """One command; returns its exit code."""
    try:
        options, verb, command = _parse(argv)
        if options.help:
            print(_help(options))
            return outcome.DONE
        if verb not in VERBS:
            raise UserError(f"'{verb}': no such verb{_nearest(verb, VERBS)}; the verbs are {', '.join(VERBS)}" if verb else
                            f'a verb is missing; write for example {EXAMPLE}')
        return VERBS[verb](options, command)
    except UserError as error:
        say(str(error))
        return outcome.USER


def run(options, command: list[str]) -> int:
    """Starts the command on an engine, and sees to it until it is done."""
    if not command:
        raise UserError(f'no command after --; write for example {EXAMPLE}')
    engine = _engine(options, command)
    engine.check()
    if options.dry_run:
        print('\n'.join(engine.lines()))
        return outcome.DONE
    name = experiment(command)
    if not name:
        say(f'note: {shlex.join(command)} is no experiment (python -m experiments.NAME); its exit codes are read as if it were')
    limits = Limits(options.max_restarts, options.max_preemptions, options.grace)
    result = Supervisor(engine, limits, say).run()
    say(last_line(options, name or pathlib.Path(command[0]).name, engine, workdir(command), result))
    return result.code


def last_line(options, name: str, engine, place: str, result: Result) -> str:
    """What ran where, for how long, how it ended, and where to look."""
    count = lambda n, one, many: f'{n} {one if n == 1 else many}'
    ended = outcome.CLASSES[result.code] + (f' ({result.cause})' if result.cause else '')
    return ' · '.join([
        f'{name} on {engine.name}', count(engine.processes, 'process', 'processes'),
        str(datetime.timedelta(seconds=round(result.seconds))),
        f"{count(result.restarts, 'restart', 'restarts')}, {count(result.preemptions, 'preemption', 'preemptions')}", ended,
        f'workdir {place}' if place else 'no --workdir', f'logs {options.logs}' if options.logs else 'no --logs'])


def experiment(command: Sequence[str]) -> str:
    """The name of the experiment that a command runs, '' where it runs none."""
    found = [re.fullmatch(r'(?:.*/)?experiments[./](\w+?)(?:\.py)?', arg) for arg in command]
    return next((match[1] for match in found if match), '')


def workdir(command: Sequence[str]) -> str:
    """What --workdir of a command names, '' where it names none."""
    for arg, following in zip(command, [*command[1:], ''], strict=True):
        flag, equals, value = arg.partition('=')
        if flag in ('--workdir', '-workdir'):
            return value if equals else following
    return ''


def _engine(options, command):
    """The engine that --on names.

    Raises:
      UserError: there is none of that name, or it cannot be so.
    """
    kind, _, text = options.on.partition(':')
    if not kind:
        raise UserError('--on is missing; say where to run, for example --on=local:2')
    if kind not in ENGINES:
        raise UserError(f"--on={options.on}: no such engine{_nearest(kind, ENGINES)}; the engines are {', '.join(ENGINES)}")
    return ENGINES[kind](text or '1', command, options.logs, options.grace)


def _nearest(name: str, valid) -> str:
    match = difflib.get_close_matches(name, list(valid), 1, 0.5)
    return f'; the nearest is {match[0]}' if match else ''


def _define() -> flags.FlagValues:
    """The flags of the launcher, in a namespace of their own."""
    values = flags.FlagValues()
    flags.DEFINE_boolean('help', False, 'show this', short_name='h', flag_values=values)
    flags.DEFINE_string('on', '', "where: 'local:4' is four processes on this machine", flag_values=values)
    flags.DEFINE_integer('max_restarts', 0, 'how often to start again after a failure', 0, flag_values=values)
    flags.DEFINE_integer('max_preemptions', 100, 'how often to start again after a preemption (exit 75)', 0, flag_values=values)
    flags.DEFINE_float('grace', 30.0, 'seconds between SIGTERM and SIGKILL', 0.0, flag_values=values)
    flags.DEFINE_string('logs', '', 'a folder that keeps the output of each process, for example WORKDIR/logs',
                        flag_values=values)
    flags.DEFINE_boolean('dry_run', False, 'print the commands that would be started, and start nothing', flag_values=values)
    return values


def _parse(argv: Sequence[str]):
    """(flags, verb, the command after --)."""
    argv = list(argv)
    at = argv.index('--') if '--' in argv else len(argv)
    values = _define()
    try:
        positional = values(['launch', *argv[:at]])[1:]
    except flags.Error as error:
        raise UserError(f'{str(error).splitlines()[0]}; --help shows the flags') from None
    if len(positional) > 1:
        raise UserError(f"'{positional[1]}': the command to run stands after --; write for example {EXAMPLE}")
    return values, positional[0] if positional else '', argv[at + 1:]


def _help(values) -> str:
    rows = [f'  --{name:16} {values[name].help}' for name in sorted({values[flag].name for flag in values})]
    usage = f"usage: python -m launch {'|'.join(VERBS)} --on=ENGINE [flags] -- COMMAND"
    return '\n'.join([__doc__.strip(), '', usage, '', *rows])


VERBS = {'run': run}

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
