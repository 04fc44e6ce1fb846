#!/usr/bin/env bash
# Expected: a manifest that PyYAML writes holds the same strings when kubectl reads it.
# What happens: PyYAML writes the strings '1e-3', '1e3', '0o7' and 'y' without quotes, as YAML 1.1 with a dot in every float
#   allows; kubectl's parser reads 0.001, 1000, 7 and true. In an annotation or a variable kubectl rejects the manifest
#   ("cannot unmarshal number into ... of type string"); in a command it prints the number.
# Versions: PyYAML 6.0.4, kubectl 1.32.4.
# Why it matters: `--lr 1e-3` in a container's command is the usual way to pass a learning rate. A program that writes
#   manifests with yaml.safe_dump has to quote such words itself, or to write JSON.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pyyaml==6.0.4'
"$place/venv/bin/python" - > "$place/pod.yaml" <<'PY'
import yaml
words = ['train', '--lr', '1e-3', '1e3', '0o7', 'y']
pod = {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': 'p'},
       'spec': {'containers': [{'name': 'm', 'image': 'i', 'command': words}]}}
assert yaml.safe_load(yaml.safe_dump(pod)) == pod
print(yaml.safe_dump(pod))
PY
kubectl label --local --filename="$place/pod.yaml" a=b --output=json | tee "$place/read.json"
grep -q '0.001' "$place/read.json" && ! grep -q '"1e-3"' "$place/read.json"
