"""The command line of the launcher.

    python -m launch run --on=local:4 --max_restarts=3 -- python -m experiments.mnist1d --workdir=/tmp/m1d
    python -m launch run --on=tpu_vm:v5e-16,zone=us-west4-a,spot --name=exp7 -- python -m experiments.vit_imagenet --workdir=…
    python -m launch status|logs|attach|kill|down [NAME]
    python -m launch sweep run|table …, rerun WORKDIR
    python -m launch doctor|render --on=slurm:nodes=2,gpus=8 [-- COMMAND]

exit 0 done · 2 the input is wrong · 3 a non-finite loss · 4 done, and the answer is no · 75 preempted, run it again ·
130 it goes on without this launcher · 1 anything else; those of an experiment, which the launcher passes on
"""
import sys
from collections.abc import Sequence

from absl import flags

from bigjax.errors import UserError
from launch import commands, outcome, target
from launch.engines import base
from launch.lines import say
from launch.steps import Failed


def main(argv: Sequence[str]) -> int:
    """One command; returns its exit code."""
    try:
        options, words, command = _parse(argv)
        if options.help:
            print(_help(options))
            return outcome.DONE
        verb, *names = words or ['']
        example = f'write for example {commands.EXAMPLE}'
        if verb not in VERBS:
            raise UserError(f"'{verb}': no such verb{target.nearest(verb, VERBS)}; the verbs are {', '.join(VERBS)}"
                            if verb else f'a verb is missing; {example}', code='launch/unknown-verb')
        return VERBS[verb](options, names, command)
    except UserError as error:
        say(str(error))
        return outcome.USER
    except Failed as error:
        say(str(error))
        return outcome.FAILED
    except KeyboardInterrupt:
        say('stopped by Ctrl-C')
        return outcome.DETACHED


def _define() -> flags.FlagValues:
    """The flags of the launcher, in a namespace of their own."""
    values = flags.FlagValues()
    flag = {'flag_values': values}
    flags.DEFINE_boolean('help', False, 'show this, and with --on=ENGINE what may stand after it', short_name='h', **flag)
    flags.DEFINE_string('on', '', "where: 'local:4' is four processes on this machine", **flag)
    flags.DEFINE_string('name', '', "the job's name; run: a new one, by default the experiment's and four digits", **flag)
    flags.DEFINE_list('env', [], 'names of variables that the processes get with their values: WANDB_API_KEY', **flag)
    flags.DEFINE_integer('max_restarts', 0, 'how often to start again after a failure', 0, **flag)
    flags.DEFINE_integer('max_preemptions', 100, 'how often to start again after a preemption (exit 75, a lost machine)', 0,
                         **flag)
    flags.DEFINE_float('grace', 30.0, 'seconds between SIGTERM and SIGKILL', 0.0, **flag)
    flags.DEFINE_string('logs', '', 'a folder that keeps the output of each process, for example WORKDIR/logs', **flag)
    flags.DEFINE_boolean('dry_run', False, 'print exactly what would be done, and do nothing', **flag)
    flags.DEFINE_boolean('detach', False, 'run: return when it has started', short_name='d', **flag)
    flags.DEFINE_boolean('follow', False, 'logs: go on until it ends', short_name='f', **flag)
    flags.DEFINE_integer('worker', -1, 'logs: of one process only', -1, **flag)
    flags.DEFINE_boolean('yes', False, 'down: do not ask', short_name='y', **flag)
    flags.DEFINE_string('to', '', 'a folder: for what render writes, the page of sweep, the run of rerun', **flag)
    flags.DEFINE_multi_string('grid', [], 'sweep: KEY=VALUE,VALUE,… once for each key to vary', **flag)
    flags.DEFINE_boolean('together', False, 'sweep: train arms that differ only in seed and numbers of the optimizer as '
                         'one population', **flag)
    flags.DEFINE_integer('parallel', 0, 'sweep: how many runs at once, by default as many as the engine has', 0, **flag)
    flags.DEFINE_string('metric', '', "sweep: the metric of the table, by default the paper's", **flag)
    flags.DEFINE_boolean('trust_patch', False, "rerun: run the source.patch of another user's run, or one that adds modules",
                         **flag)
    flags.DEFINE_integer('losses', 20, 'rerun: how many training losses to compare; 0: all, to the end', 0, **flag)
    return values


def _parse(argv: Sequence[str]):
    """(flags, the words before --, the command after it)."""
    argv = list(argv)
    at = argv.index('--') if '--' in argv else len(argv)
    values = _define()
    try:
        words = values(['launch', *argv[:at]])[1:]
    except flags.Error as error:
        raise UserError(f'{str(error).splitlines()[0]}; --help shows the flags', code='launch/bad-flag') from None
    if len(words) > (3 if words[:1] == ['sweep'] else 2):
        raise UserError(f"'{words[2]}': the command to run stands after --; write for example {commands.EXAMPLE}",
                        code='launch/usage')
    return values, words, argv[at + 1:]


def _help(values) -> str:
    rows = [(f'--{name}', values[name].help) for name in sorted({values[flag].name for flag in values})]
    own = []
    if kind := values.on.partition(':')[0]:
        own = ['', f'--on={kind}:KEY=VALUE,…', *_table(target.describe(base.module(kind).Target))]
    return '\n'.join([__doc__.strip(), '', f"verbs: {', '.join(VERBS)}; engines: {', '.join(base.ENGINES)}", '',
                      *_table(rows), *own])


def _table(rows) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f'  {name:{width}}  {meaning}' for name, meaning in rows]


def _sweep(options, names: Sequence[str], command: Sequence[str]) -> int:
    from launch import sweep  # needs JAX, which the other verbs start without
    return sweep.verb(options, names, command)


def _rerun(options, names: Sequence[str], command: Sequence[str]) -> int:
    from launch import rerun
    return rerun.verb(options, names, command)


VERBS = {**commands.VERBS, 'sweep': _sweep, 'rerun': _rerun}

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
