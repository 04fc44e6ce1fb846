"""What the tests of models share: init, parameter counts and torch weights."""
import jax
import jax.numpy as jnp
import numpy as np


def abstract(model, *inputs):
    """The shapes of a model's variables, without computing anything."""
    rngs = {name: jax.random.key(0) for name in ('params', 'dropout', 'sample')}
    return jax.eval_shape(lambda: model.init(rngs, *inputs, train=False))


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def parameters(model, *inputs) -> int:
    return size(abstract(model, *inputs)['params'])


def init(model, *inputs, seed=0):
    """Variables with every leaf redrawn, so that zero biases and unit scales cannot hide an error."""
    shapes = abstract(model, *inputs)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    drawn = [jnp.asarray(rng.uniform(-0.3, 0.3, leaf.shape), leaf.dtype) for leaf in leaves]
    variables = jax.tree.unflatten(tree, drawn)
    if 'batch_stats' in variables:
        variables['batch_stats'] = jax.tree.map(lambda a: jnp.abs(a) + 0.5, variables['batch_stats'])
    return variables


def contrasted(model, *inputs):
    """`init` three times as large, and norms about one: scores of attention differ between keys, and no layer fades."""
    larger = lambda path, p: 1 + p if path[-1].key == 'scale' else 3 * p
    return jax.tree_util.tree_map_with_path(larger, init(model, *inputs))


def applied(model, variables, *inputs, rngs=None, **how):
    """`model.apply` in one compiled program; otherwise each of its operations is compiled by itself."""
    return jax.jit(lambda variables, rngs, *inputs: model.apply(variables, *inputs, rngs=rngs, **how))(variables, rngs, *inputs)


def paths(tree) -> set[str]:
    return {'/'.join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def dense_to_torch(params, layer):
    """Copies a Dense's parameters into a `torch.nn.Linear`."""
    import torch
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.array(params['kernel']).T))
        if layer.bias is not None:
            layer.bias.copy_(torch.tensor(np.array(params['bias'])))


def conv_to_torch(params, layer):
    """Copies a Conv's parameters into a `torch.nn.Conv1d` or `Conv2d`."""
    import torch
    kernel = np.array(params['kernel'])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.moveaxis(kernel, (-1, -2), (0, 1))))
        if layer.bias is not None:
            layer.bias.copy_(torch.tensor(np.array(params['bias'])))


def norm_to_torch(params, layer, stats=None):
    """Copies a BatchNorm's or LayerNorm's parameters, and its statistics, into torch's."""
    import torch
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.array(params['scale'])))
        if 'bias' in params:
            layer.bias.copy_(torch.tensor(np.array(params['bias'])))
        if stats is not None:
            layer.running_mean.copy_(torch.tensor(np.array(stats['mean'])))
            layer.running_var.copy_(torch.tensor(np.array(stats['var'])))


def recurrent_to_torch(params, layer, suffix):
    """Copies an LSTM's or GRU's parameters into the layer of `torch.nn.LSTM` named by `suffix` ('l0', 'l0_reverse')."""
    import torch
    with torch.no_grad():
        for ours, theirs in (('input_kernel', 'weight_ih'), ('recurrent_kernel', 'weight_hh'),
                             ('input_bias', 'bias_ih'), ('recurrent_bias', 'bias_hh')):
            getattr(layer, f'{theirs}_{suffix}').copy_(torch.tensor(np.array(params[ours]).T))
