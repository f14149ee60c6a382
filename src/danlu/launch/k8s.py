"""A training run as text for Kubernetes: an Indexed Job, one pod per host of the fleet. Rendered, not run by us."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

NOTE = "# Rendered by danlu launch; nobody of danlu has run it. Needs a volume claim that all pods can write to.\n"


def manifest(
    name: str, hosts: Sequence[str], train: Sequence[str], orders: Path, *, image: str, claim: str, mount: str
) -> str:
    """YAML for kubectl apply.

    train   command of the run; pod 0 runs it beside its helper
    image   container image with danlu; claim, mount  volume claim (ReadWriteMany) and where it appears in the pods
    """
    names = " ".join(shlex.quote(host) for host in hosts)
    folder = shlex.quote(str(orders))
    body = [
        "set -u",
        f"hosts=({names})",
        f'python -m danlu.launch.come {folder} "${{hosts[$JOB_COMPLETION_INDEX]}}" &',
        'if [ "$JOB_COMPLETION_INDEX" = 0 ]; then',
        f"  {shlex.join(train)}; code=$?",
        f"  mkdir -p {folder}; touch {folder}/all.over; wait; exit $code",
        "fi",
        "wait",
    ]
    command = json.dumps("\n".join(body))
    return (
        NOTE
        + f"""apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {len(hosts)}
  parallelism: {len(hosts)}
  backoffLimitPerIndex: 1
  template:
    spec:
      restartPolicy: OnFailure
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector:
                matchLabels: {{"batch.kubernetes.io/job-name": {json.dumps(name)}}}
      containers:
        - name: danlu
          image: {json.dumps(image)}
          command: ["bash", "-c", {command}]
          volumeMounts:
            - name: run
              mountPath: {json.dumps(mount)}
      volumes:
        - name: run
          persistentVolumeClaim:
            claimName: {json.dumps(claim)}
"""
    )
