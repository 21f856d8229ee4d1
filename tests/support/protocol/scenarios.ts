import {
  cancel,
  claim,
  claimAndFreeze,
  end,
  giveUp,
  leave,
  moveInNextDoor,
  post,
  prune,
  publish,
  read,
  say,
  sayNextDoor,
  steer,
  sweep,
} from './operations.ts'
import type { Scenario } from './schedule.ts'

/** Small enough that all their schedules can be run; each is about one place where replicas meet. */
export const SCENARIOS = {
  publishing: {
    name: 'two replicas publish while a third one speaks',
    replicas: [{ before: [post(1), claim, say(2)], does: [say(1)] }, { does: [publish, read()] }, { does: [publish] }],
  },
  ending: {
    name: 'a run ends while its replies are published',
    replicas: [{ before: [post(1), claim, say(2)], does: [say(1), end] }, { does: [publish, publish, read()] }],
  },
  overtaking: {
    name: 'a reply commits later than one with a higher number',
    replicas: [
      { before: [post(1), claim], does: [say(1)] },
      { before: [moveInNextDoor], does: [sayNextDoor, publish, publish] },
    ],
  },
  waking: {
    name: 'a frozen replica wakes up when its run has another holder',
    replicas: [{ before: [post(1), claimAndFreeze], does: [say(1), end] }, { does: [sweep, claim, publish] }],
  },
  takeover: {
    name: 'two holders of one run speak and end it',
    replicas: [
      { before: [post(1), claimAndFreeze, say(2)], does: [say(1), end] },
      { does: [sweep, claim, say(1), end] },
    ],
  },
  claiming: {
    name: 'replicas claim while others sweep',
    replicas: [
      { before: [post(1), claimAndFreeze], does: [sweep, claim] },
      { does: [claim] },
      { does: [sweep, claim] },
    ],
  },
  cancelling: {
    name: 'a run is cancelled while its worker speaks and ends it',
    replicas: [{ before: [post(1), claim, say(2)], does: [say(1), end] }, { does: [cancel(), publish, read()] }],
  },
  waiting: {
    name: 'one message is cancelled, and the next one has its turn',
    replicas: [
      { before: [post(1), claim, say(2), post(2)], does: [say(1), end] },
      { does: [cancel(1), claim, say(1)] },
    ],
  },
  accepting: {
    name: 'a message is accepted while the run before it ends',
    replicas: [{ before: [post(1), claim, say(1)], does: [end] }, { does: [post(2), claim] }],
  },
  repeating: {
    name: 'a message is posted twice at once, and claimed',
    replicas: [{ does: [post(1), claim] }, { does: [post(1, 'enqueue', { claimHere: true }), say(1)] }],
    withDeaths: true,
  },
  interrupting: {
    name: 'an interrupting message meets the end of the run that it interrupts',
    replicas: [
      { before: [post(1), claim, say(1), post(2)], does: [end, claim] },
      { does: [post(3, 'interrupt'), claim] },
    ],
  },
  steering: {
    name: 'a message that is taken into a turn is cancelled',
    replicas: [
      { before: [post(1), claim, say(1)], does: [steer, end] },
      { before: [post(2, 'steer')], does: [cancel(2), post(3, 'steer')] },
    ],
  },
  resuming: {
    name: 'a reader comes back to a turn that is pruned while the next one speaks',
    replicas: [
      { before: [post(1), claim, say(2), publish, end, post(2), claim], does: [say(2), publish] },
      { before: [read(2)], does: [read(1), read()] },
      { does: [prune] },
    ],
  },
  leaving: {
    name: 'a conversation is ended while it is used',
    replicas: [
      { before: [post(1), claim], does: [say(1), end] },
      { before: [read()], does: [post(2), leave, read()] },
    ],
  },
  givingUp: {
    name: 'a run is given up while its holder ends it',
    replicas: [{ before: [post(1), claimAndFreeze, say(1)], does: [say(1), end] }, { does: [giveUp, publish] }],
  },
  dying: {
    name: 'a replica dies at any commit, or never hears of it',
    replicas: [{ before: [post(1), claim], does: [say(1), say(2), end] }, { does: [publish, read()] }],
    withDeaths: true,
  },
} satisfies Record<string, Scenario>
