"""Lists the experiments, each with the first line of its script."""
import ast
import pathlib


def names(folder: pathlib.Path = pathlib.Path(__file__).parent) -> list[str]:
    """The experiments of a folder."""
    return sorted(p.stem for p in folder.glob('*.py') if not p.stem.startswith('_'))


def main(folder: pathlib.Path = pathlib.Path(__file__).parent) -> None:
    """Prints the list."""
    for name in names(folder):
        text = (folder / f'{name}.py').read_text(encoding='utf-8')
        print(f"{name:18} {(ast.get_docstring(ast.parse(text)) or '').partition(chr(10))[0]}".rstrip())
    print('\npython -m experiments.NAME --help')


if __name__ == '__main__':
    main()
