"""Launch scripts: syntax, what they would run, and the local pod for real."""

import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / 'launch'
SCRIPTS = sorted(LAUNCH.glob('*.sh'))
PARTS = {'venv.sh', 'cloud.sh'}  # Sourced, not run.
BASH = shutil.which('bash') or 'bash'


def _run(script, *args, **env):
  keep = {k: os.environ[k] for k in ('PATH', 'HOME') if k in os.environ}
  return subprocess.run(
    [BASH, str(LAUNCH / script), *args],
    env=keep | env,
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_script_is_sound(script):
  subprocess.run([BASH, '-n', str(script)], check=True)
  text = script.read_text()
  assert len(text.splitlines()) < 80
  assert bool(script.stat().st_mode & stat.S_IXUSR) != (script.name in PARTS)
  if script.name not in PARTS:
    assert text.startswith('#!/usr/bin/env bash\n')
    assert '\nset -euo pipefail\n' in text
  assert not any(w in text for w in ('sudo', 'pkill', 'killall'))


SSH = 'gcloud compute tpus tpu-vm ssh fewer --worker=all --zone=us-z'
QUEUED = 'gcloud compute tpus queued-resources'
GOLDEN = [
  (
    'tpu_queued.sh create',
    f'{QUEUED} create fewer --node-id=fewer --accelerator-type=v6e-32 '
    '--runtime-version=v2-alpha-tpuv6e --zone=us-z --project=me --spot\n',
    {'TPU_TYPE': 'v6e-32', 'SPOT': '1', 'PROJECT': 'me'},
  ),
  (
    'tpu_queued.sh wait',
    f"{QUEUED} describe fewer --zone=us-z '--format=value(state.state)'\n",
    {},
  ),
  (
    'tpu_queued.sh delete',
    f'{QUEUED} delete fewer --zone=us-z --force --quiet\n',
    {},
  ),
  (
    "tpu_run.sh train configs/a.py --workdir gs://b/it's",
    f"{SSH} '--command=cd tokpress_jax && exec .venv/bin/python -m "
    "tokpress_jax train configs/a.py --workdir '\\''gs://b/it'\\''\\'\\'''\\''"
    "s'\\'''\n",
    {},
  ),
  (
    'xpk.sh train configs/a.py --workdir gs://b/a',
    'xpk workload create --cluster=c --workload=w --zone=us-z '
    '--tpu-type=v6e-256 --num-slices=1 --base-docker-image=python:3.11 '
    '--script-dir=. --max-restarts=50 --restart-on-exit-codes=75 '
    "'--command=python -m pip install -q -c constraints.txt "
    '".[tpu,demo]" && python -m tokpress_jax train configs/a.py --workdir '
    "gs://b/a'\n",
    {'CLUSTER': 'c', 'WORKLOAD': 'w', 'TPU_TYPE': 'v6e-256'},
  ),
  (
    'local_pod.sh train configs/a.py',
    ''.join(
      'env JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo '
      'XLA_FLAGS=--xla_force_host_platform_device_count=4 '
      'TOKPRESS_COORDINATOR=localhost:12345 TOKPRESS_PROCESSES=2 '
      f'TOKPRESS_PROCESS={i} python -m tokpress_jax train configs/a.py\n'
      for i in range(2)
    ),
    {},
  ),
]


@pytest.mark.parametrize('call,expected,env', GOLDEN, ids=lambda x: str(x)[:16])
def test_dry_run_prints_the_commands(call, expected, env):
  script, *args = call.split(' ')
  result = _run(
    script, '--dry-run', *args, TPU_NAME='fewer', ZONE='us-z', **env
  )
  assert (result.returncode, result.stderr) == (0, '')
  assert result.stdout == expected


def test_setup_sends_committed_files_and_a_sound_remote_script():
  result = _run('tpu_setup.sh', '--dry-run', TPU_NAME='t', ZONE='z')
  archive, copy, remote = result.stdout.splitlines()
  assert archive.startswith('git archive --format=tar.gz')
  assert copy.endswith('t:tokpress_jax.tar.gz --worker=all --zone=z')
  # What a shell would pass as --command is itself a sound script.
  words = subprocess.run(
    [BASH, '-c', f'for w in {remote}; do printf "%s\\0" "$w"; done'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split('\0')
  (command,) = [w for w in words if w.startswith('--command=')]
  script = command.removeprefix('--command=')
  assert '\n' not in script and 'ensure_venv tpu' in script
  subprocess.run([BASH, '-n', '-c', script], check=True)


@pytest.mark.parametrize(
  'script,args,env,missing',
  [
    ('tpu_run.sh', ['train'], {'TPU_NAME': 't'}, 'ZONE'),
    ('tpu_run.sh', [], {'TPU_NAME': 't', 'ZONE': 'z'}, 'give a tokpress'),
    ('tpu_setup.sh', [], {'ZONE': 'z'}, 'TPU_NAME'),
    ('tpu_queued.sh', ['create'], {'TPU_NAME': 't', 'ZONE': 'z'}, 'TPU_TYPE'),
    ('tpu_queued.sh', ['up'], {'TPU_NAME': 't', 'ZONE': 'z'}, 'usage'),
    ('xpk.sh', ['train'], {'CLUSTER': 'c'}, 'WORKLOAD'),
    ('local_pod.sh', [], {}, 'give a tokpress'),
  ],
)
def test_missing_settings_are_named(script, args, env, missing):
  result = _run(script, '--dry-run', *args, **env)
  assert result.returncode != 0 and missing in result.stderr
  assert result.stdout == ''


def _fake_gcloud(directory, codes):
  """A gcloud that ends with the given codes, one call after another."""
  gcloud = directory / 'gcloud'
  gcloud.write_text(
    f'#!/bin/sh\ncd {directory}; echo >> calls\n'
    f'set -- {" ".join(map(str, codes))}\n'
    'shift $(($(wc -l < calls) - 1)); exit $1\n'
  )
  gcloud.chmod(0o755)
  return f'{directory}:{os.environ["PATH"]}'


@pytest.mark.parametrize(
  'codes,calls,code',
  [((75, 255, 0), 3, 0), ((75, 3), 2, 3), ((75, 75, 75), 3, 75)],
)
def test_run_restarts_after_a_preemption_only(tmp_path, codes, calls, code):
  result = _run(
    'tpu_run.sh',
    'train',
    TPU_NAME='t',
    ZONE='z',
    MAX_RESTARTS='2',
    RESTART_DELAY='0',
    PATH=_fake_gcloud(tmp_path, codes),
  )
  assert result.returncode == code
  assert len((tmp_path / 'calls').read_text().splitlines()) == calls


def test_jobset_restarts_on_our_exit_code():
  jobset = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes']['operator'] == 'NotIn'
  assert 75 in rule['onExitCodes']['values']
  assert jobset['spec']['failurePolicy']['rules'] == [
    {'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}
  ]
  pod = job['template']['spec']
  assert pod['restartPolicy'] == 'Never'
  (container,) = pod['containers']
  assert rule['onExitCodes']['containerName'] == container['name']
  assert job['parallelism'] == job['completions']


_PROGRAM = """
import os, pathlib, signal, sys, time
i = int(os.environ['TOKPRESS_PROCESS'])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(f'ready{i}').touch()
while not pathlib.Path(f'ready{1 - i}').exists():
  time.sleep(0.01)
print('process', i, sys.argv[1:], flush=True)
if sys.argv[1] == 'fail' and i == 1:
  time.sleep(0.3)
  sys.exit(3)
if sys.argv[1] != 'end':
  time.sleep(30)
"""


@pytest.fixture
def pod(tmp_path):
  """The local pod script around a stand-in for the command line."""
  (tmp_path / 'launch').mkdir()
  for name in ('local_pod.sh', 'cloud.sh'):
    shutil.copy(LAUNCH / name, tmp_path / 'launch')
  (tmp_path / 'tokpress_jax').mkdir()
  (tmp_path / 'tokpress_jax' / '__main__.py').write_text(_PROGRAM)
  (tmp_path / 'bin').mkdir()
  (tmp_path / 'bin' / 'python').symlink_to(sys.executable)

  def start(*args):
    return subprocess.Popen(
      [BASH, str(tmp_path / 'launch' / 'local_pod.sh'), *args],
      env=os.environ | {'TOKPRESS_VENV': str(tmp_path)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.mark.multiprocess
@pytest.mark.parametrize('mode,code', [('end', 0), ('fail', 3)])
def test_pod_ends_with_the_first_failure(pod, mode, code):
  process = pod(mode, 'a b')
  out, err = process.communicate(timeout=20)
  assert process.returncode == code
  assert out == f"process 0 ['{mode}', 'a b']\n"
  assert (f'process 1 ended with exit code {code}' in err) == (code != 0)


@pytest.mark.multiprocess
def test_pod_passes_a_preemption_on(pod):
  process = pod('wait')
  assert process.stdout.readline().startswith('process 0')
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 75
