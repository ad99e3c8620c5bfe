// Which labeling functions contradict each other: a matrix as long as it can be read, beyond that the worst pairs.
import type { JSX } from 'preact';
import { count, NOTHING, percent, plural } from '../../lib/format';
import { cli } from '../../lib/shell';
import { CliLine } from '../../ui/cli';
import { Card } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Ago, Name } from '../../ui/text';
import type { Dataset } from '../datasets/data';
import { isOutdated, pairAt, pairsOf, shareOf } from './conflict-pairs';
import type { Pair } from './conflict-pairs';
import { useConflicts } from './data';
import type { FunctionConflicts, LabelingFunction } from './data';

/** More functions than this are not a table that anybody reads. */
const MOST_IN_MATRIX = 12;
/** The worst pairs of those. */
const MOST_PAIRS = 20;

/** `functions`: as they are now. */
export function Conflicts({ dataset, functions }: { dataset: Dataset; functions: readonly LabelingFunction[] }): JSX.Element | null {
  const asked = useConflicts(dataset.id);
  if (functions.length === 0) return null;
  const found = asked.data;
  return (
    <Card
      title="Conflicts between functions"
      note={
        found === undefined || found === null ? undefined : (
          <>
            on {plural(found.samples, 'sample')}, <Ago time={found.fitted_at} suffix />
          </>
        )
      }
    >
      {found === undefined ? (
        asked.isError ? (
          <ErrorNote error={asked.error} title="The conflicts could not be loaded" onRetry={() => asked.refetch()} />
        ) : (
          <Skeleton rows={3} label="Loading the conflicts" />
        )
      ) : found === null ? (
        <Empty cli={cli('labels', 'fit', dataset.name, '--wait')}>Which functions contradict each other is known once the label model is fitted.</Empty>
      ) : (
        <div class="labeling-conflicts" data-state="full">
          <Summary found={found} />
          {isOutdated(found, functions) ? <p class="muted">Functions have been added or removed since: fit the label model again to compare those of now.</p> : null}
          {found.functions.length < 2 ? null : found.functions.length > MOST_IN_MATRIX ? <Pairs pairs={pairsOf(found)} /> : <Matrix found={found} />}
          <CliLine line={cli('labels', 'lf', 'conflicts', dataset.name)} />
        </div>
      )}
    </Card>
  );
}

function Summary({ found }: { found: FunctionConflicts }): JSX.Element {
  if (found.functions.length < 2) return <p>A function alone contradicts nobody.</p>;
  const worst = pairsOf(found)[0];
  if (worst === undefined) return <p>No two functions vote on the same sample.</p>;
  if (worst.conflict === 0) return <p>Wherever two functions vote on the same sample, they agree.</p>;
  return (
    <p>
      <bdi class="strong">{worst.first.name}</bdi> and <bdi class="strong">{worst.second.name}</bdi> contradict each other most: on {count(worst.conflict)} of the {plural(worst.overlap, 'sample')} on which both vote (
      {percent(shareOf(worst), 0)}).
    </p>
  );
}

function Matrix({ found }: { found: FunctionConflicts }): JSX.Element {
  const { functions } = found;
  return (
    <div class="labeling-scroll" role="region" aria-label="Conflict matrix" tabIndex={0}>
      <table class="labeling-matrix">
        <caption>Samples on which two functions vote for different labels, and their share of those on which both vote; on the diagonal, samples on which a function votes</caption>
        <thead>
          <tr>
            <td />
            {functions.map((one) => (
              <th key={one.id} scope="col">
                <Name value={one.name} />
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {functions.map((one, row) => (
            <tr key={one.id}>
              <th scope="row">
                <Name value={one.name} />
                <span class="muted">
                  {' for '}
                  <Name value={one.label} />
                </span>
              </th>
              {functions.map((other, column) => (
                <Cell key={other.id} pair={pairAt(found, row, column)} self={row === column} />
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Cell({ pair, self }: { pair: Pair | undefined; self: boolean }): JSX.Element {
  if (pair === undefined || pair.overlap === 0)
    return (
      <td class="none">
        <span aria-hidden="true">{NOTHING}</span>
        <span class="visually-hidden">{self ? 'never votes' : 'never vote together'}</span>
      </td>
    );
  if (self)
    return (
      <td class="self">
        <span class="visually-hidden">votes on </span>
        {count(pair.overlap)}
      </td>
    );
  const share = shareOf(pair);
  return (
    <td
      class={pair.conflict === 0 ? 'none' : 'against'}
      title={`${pair.first.name} and ${pair.second.name}: ${count(pair.conflict)} of ${count(pair.overlap)}`}
      style={{ '--share': `${pair.conflict === 0 ? 0 : Math.round(6 + share * 34)}%` } as JSX.CSSProperties}
    >
      <b>{count(pair.conflict)}</b>
      <span class="visually-hidden"> of {count(pair.overlap)}</span>
      {pair.conflict === 0 ? null : <span> {percent(share, 0)}</span>}
    </td>
  );
}

function Pairs({ pairs }: { pairs: readonly Pair[] }): JSX.Element | null {
  if (pairs.length === 0) return null;
  return (
    <div class="labeling-scroll" role="region" aria-label="Functions that contradict each other" tabIndex={0}>
      <table class="labeling-pairs">
        <caption>{pairs.length > MOST_PAIRS ? `The ${MOST_PAIRS} pairs with most conflicts, of ${count(pairs.length)} that vote together` : 'Pairs that vote together, most conflicts first'}</caption>
        <thead>
          <tr>
            <th scope="col">Function</th>
            <th scope="col">and</th>
            <th scope="col" class="end">
              Both vote
            </th>
            <th scope="col" class="end">
              In conflict
            </th>
          </tr>
        </thead>
        <tbody>
          {pairs.slice(0, MOST_PAIRS).map((pair) => (
            <tr key={`${pair.first.id} ${pair.second.id}`}>
              {[pair.first, pair.second].map((one) => (
                <td key={one.id}>
                  <Name value={one.name} strong />{' '}
                  <span class="muted">
                    for <Name value={one.label} />
                  </span>
                </td>
              ))}
              <td class="end">{count(pair.overlap)}</td>
              <td class="end">
                {count(pair.conflict)} <span class="muted">{percent(shareOf(pair), 0)}</span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
