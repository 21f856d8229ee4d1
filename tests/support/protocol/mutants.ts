import type { Mutant } from './mutant.ts'
import { SCENARIOS } from './scenarios.ts'
import type { Scenario } from './schedule.ts'

/** What the product would do without one of its locks or conditions, where that shows, and by which fault it must be found. */
export interface Sabotage {
  name: string
  mutant: Mutant
  scenario: Scenario
  /** 1 unless given. */
  switches?: number
  fault: RegExp
}

const NUMBERS = /number \d+ was given twice|misses event/

export const SABOTAGES: Sabotage[] = [
  {
    name: 'publishing does not lock the conversation',
    mutant: { in: 'with head as materialized', replace: [['for no key update skip locked', '']] },
    scenario: SCENARIOS.publishing,
    fault: NUMBERS,
  },
  {
    name: 'publishing knows the last number from before its lock',
    mutant: {
      in: 'with head as materialized',
      replace: [
        [
          'c.last_seq, h.places',
          '(select v.last_seq from conversations v where v.id = c.id and v.organization_id = c.organization_id), h.places',
        ],
      ],
    },
    scenario: SCENARIOS.publishingLate,
    switches: 2,
    fault: NUMBERS,
  },
  {
    name: 'ending does not lock the conversation',
    mutant: { in: 'end_seq as "endSeq" from conversations\n', replace: [['for no key update', '']] },
    scenario: SCENARIOS.ending,
    fault: NUMBERS,
  },
  {
    name: 'ending locks the run before the conversation',
    mutant: { in: 'end_seq as "endSeq" from conversations\n', replace: [['for no key update', '']] },
    scenario: SCENARIOS.cancelling,
    fault: /wait for each other/,
  },
  {
    name: 'accepting does not lock the conversation',
    mutant: { in: 'with c as materialized', replace: [['for no key update', '']] },
    scenario: SCENARIOS.accepting,
    fault: /nothing will ever start it|never ended/,
  },
  {
    name: 'replies are stored whatever the fence',
    mutant: { in: 'with given as materialized', replace: [['and r.fence = g.fence', '']] },
    scenario: SCENARIOS.waking,
    fault: /reply was stored although/,
  },
  {
    name: 'replies are stored whatever the state',
    mutant: { in: 'r.reply_batch = g.batch - 1', replace: [["and r.state || '' = 'running'", '']] },
    scenario: SCENARIOS.cancelling,
    fault: /behind the end/,
  },
  {
    name: 'a reply does not lock the run',
    mutant: { in: 'r.reply_batch = g.batch - 1', replace: [['for no key update', '']] },
    scenario: SCENARIOS.cancelling,
    fault: /behind the end/,
  },
  {
    name: 'a reply that is sent again is stored again',
    mutant: { in: 'r.reply_batch = g.batch - 1', replace: [['and r.reply_batch = g.batch - 1', '']] },
    scenario: SCENARIOS.dying,
    fault: /in the log 2 times/,
  },
  {
    name: 'a run is ended whatever the fence',
    mutant: {
      in: 'ended_at = now(), replica = null',
      replace: [
        ['r.fence = §', 'coalesce(§, 0) >= 0'],
        ['r.reply_batch = §', 'coalesce(§, 0) >= 0'],
      ],
    },
    scenario: SCENARIOS.waking,
    fault: /had lost the run ended it/,
  },
  {
    name: 'a run is ended whatever its state',
    mutant: {
      in: 'ended_at = now(), replica = null',
      replace: [
        ["r.state in ('queued', 'ready', 'delayed', 'running')", 'true'],
        ["and r.state = 'running'", ''],
      ],
    },
    scenario: SCENARIOS.waiting,
    fault: /ended 2 times/,
  },
  {
    name: 'a claim keeps the fence',
    mutant: { in: 'fence = r.fence + 1', replace: [['fence = r.fence + 1', 'fence = r.fence']] },
    scenario: SCENARIOS.waking,
    fault: /although its claim had lost the run|had lost the run ended it/,
  },
  {
    name: 'a sweep takes from the living',
    mutant: { in: "state = 'ready', replica = null", replace: [['and lease_until < now()', '']] },
    scenario: SCENARIOS.claiming,
    fault: /living holder/,
  },
  {
    name: 'a claim takes what another one is taking',
    mutant: { in: 'with recursive waiting', replace: [['for update skip locked', '']] },
    scenario: SCENARIOS.claiming,
    fault: /living holder/,
  },
  {
    name: 'a claim waits for what another one is taking',
    mutant: { in: 'with recursive waiting', replace: [['for update skip locked', 'for update']] },
    scenario: SCENARIOS.claiming,
    fault: /claim.* waited/,
  },
  {
    name: 'a message may run beside the one before it',
    mutant: { in: 'with c as materialized', replace: [['a.open_runs > 0', 'false']] },
    scenario: SCENARIOS.accepting,
    fault: /in work at once/,
  },
  {
    name: 'pruning does not say how far it went',
    mutant: {
      in: 'moved as (\n      update conversations c set pruned_seq',
      replace: [['greatest(c.pruned_seq, h.seq)', 'c.pruned_seq']],
    },
    scenario: SCENARIOS.resuming,
    fault: /came back again and again/,
  },
  {
    name: 'a stream resumes one event too late',
    mutant: {
      in: 'page.*, sum(octet_length(events))',
      replace: [['e.last_seq > x.after', 'e.last_seq > x.after + 1']],
    },
    scenario: SCENARIOS.resuming,
    fault: /came back again and again/,
  },
  {
    name: 'a stream resumes one event too early',
    mutant: { in: 'page.*, sum(octet_length(events))', replace: [['e.last_seq > x.after', 'e.last_seq >= x.after']] },
    scenario: SCENARIOS.resuming,
    fault: /again/,
  },
  {
    name: 'one number that is gone is taken for one that is kept',
    mutant: {
      in: 'pruned_seq as "prunedSeq"',
      replace: [['pruned_seq as "prunedSeq"', 'greatest(pruned_seq - 1, 0) as "prunedSeq"']],
    },
    scenario: SCENARIOS.resuming,
    fault: /came back again and again/,
  },
  {
    name: 'a publisher forgets replies that commit late',
    mutant: { in: 'with head as materialized', replace: [['pg_snapshot_xmin(', 'pg_snapshot_xmax(']] },
    scenario: SCENARIOS.overtaking,
    fault: /forgotten/,
  },
]
