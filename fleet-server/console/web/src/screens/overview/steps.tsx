// The first steps of an empty fleet: what is done, what comes next with its command lines, and what comes after that.
import type { ComponentChildren, JSX } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { Link } from '../../lib/router';
import { cli } from '../../lib/shell';
import { CliLine } from '../../ui/cli';
import { Icon } from '../../ui/icon';
import { Card } from '../../ui/page';
import type { FirstSteps } from './data';

interface Step {
  id: keyof FirstSteps;
  title: string;
  why: ComponentChildren;
  href: string;
  action: string;
  lines: readonly string[];
}

const STEPS: readonly Step[] = [
  {
    id: 'has_devices',
    title: 'Enrol the first device',
    why: 'A claim token lets a device join once; its factory bundle goes onto the device.',
    href: '/provisioning?new=1',
    action: 'Make a claim token',
    lines: [cli('tokens', 'create', '--uses', 1, '-o', 'factory.json'), 'fleet-agent enrol --bundle factory.json --config agent.toml', 'fleet-agent run --config agent.toml'],
  },
  {
    id: 'has_datasets',
    title: 'Bring the first dataset',
    why: 'Say how a file becomes samples, then import a CSV file.',
    href: '/datasets',
    action: 'Go to datasets',
    lines: [cli('datasets', 'create', '-f', 'dataset.toml'), cli('datasets', 'import', 'NAME', 'samples.csv')],
  },
  {
    id: 'has_labels',
    title: 'Label samples',
    why: 'Functions label thousands at once; the queue shows what is best labelled by hand.',
    href: '/labeling',
    action: 'Go to labeling',
    lines: [cli('labels', 'lf', 'add', 'NAME', 'still', '--when', 'f["accel_y.std"] < 1.5', '--label', 'standing'), cli('labels', 'fit', 'NAME')],
  },
  {
    id: 'has_runs',
    title: 'Train the first model',
    why: 'Freeze what is labelled into a version, then train on it.',
    href: '/runs',
    action: 'Go to runs',
    lines: [cli('versions', 'create', 'NAME'), cli('runs', 'create', '--dataset-version', 'ID')],
  },
  {
    id: 'has_models',
    title: 'Package and sign it',
    why: 'A package must pass its golden inputs. It is signed with a key that the server never sees.',
    href: '/models',
    action: 'Go to the registry',
    lines: [
      cli('models', 'package', 'LINE', '--run', 'RUN', '--semver', '1.0.0'),
      cli('sign', 'export', 'ID', '-o', 'to-sign.json'),
      cli('sign', 'apply', 'to-sign.json', '--key', 'release.key', '-o', 'signed.json'),
      cli('sign', 'import', 'ID', 'signed.json'),
    ],
  },
  {
    id: 'has_rollouts',
    title: 'Roll it out',
    why: 'First to one device; the others follow when that one has served it well.',
    href: '/rollouts/new',
    action: 'Plan a rollout',
    lines: [cli('rollouts', 'create', '--model-version', 'ID'), cli('rollouts', 'start', 'ROLLOUT')],
  },
];

function StepView({ step, number, done, open }: { step: Step; number: number; done: boolean; open: boolean }): JSX.Element {
  const details = useRef<HTMLDetailsElement>(null);
  // Only when the step's turn comes: what a person has opened or closed since stays so.
  useEffect(() => {
    if (details.current !== null) details.current.open = open;
  }, [open]);
  return (
    <li class={`overview-step${done ? ' done' : ''}${open ? ' next' : ''}`} aria-current={open ? 'step' : undefined}>
      <details ref={details}>
        <summary>
          <span class="overview-step-mark" aria-hidden="true">
            {done ? <Icon name="check" size={14} /> : number}
          </span>
          <span class="strong">{step.title}</span>
          <span class="muted overview-step-note">{done ? 'Done' : open ? 'Next' : ''}</span>
        </summary>
        <div class="overview-step-body">
          <p class="muted">{step.why}</p>
          <div class="stack-small">
            {step.lines.map((line) => (
              <CliLine key={line} line={line} />
            ))}
          </div>
          <p>
            <Link class={open ? 'button primary' : 'button'} href={step.href}>
              {step.action}
            </Link>
          </p>
        </div>
      </details>
    </li>
  );
}

export function Steps({ steps }: { steps: FirstSteps }): JSX.Element {
  const next = STEPS.find((step) => !steps[step.id]);
  const done = STEPS.filter((step) => steps[step.id]).length;
  return (
    <Card title="First steps" note={`${done} of ${STEPS.length} done`}>
      <ol class="overview-steps">
        {STEPS.map((step, index) => (
          <StepView key={step.id} step={step} number={index + 1} done={steps[step.id]} open={step === next} />
        ))}
      </ol>
      <div class="stack-small overview-demo">
        <p class="muted">To see everything at work on this machine, with real data, in one go:</p>
        <CliLine line={cli('demo')} />
      </div>
    </Card>
  );
}
