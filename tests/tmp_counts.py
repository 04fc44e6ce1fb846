import jax, jax.numpy as jnp, sys
from bigjax.models.resnet import VARIANTS, ResNet
for n,f in VARIANTS.items():
    k = 1000 if f.get('stem') in ('7x7','bit') else 10
    s=jax.eval_shape(lambda: ResNet(**f,num_classes=k).init(jax.random.key(0), jnp.zeros((1,64,64,3)), train=False))
    print(n, sum(x.size for x in jax.tree.leaves(s['params'])), flush=True)
