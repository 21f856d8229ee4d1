import { describe, expect, it } from 'vitest'
import { type Acknowledged, endsOf, findFaults, type Seen } from './checker.ts'
import type { SseEvent } from './sse-client.ts'

const event = (name: string, messageId: string, data: object = {}): SseEvent => ({
  id: 0,
  name,
  data: { messageId, ...data },
})
const output = (messageId: string, content: string) => event('output', messageId, { content })
const complete = (messageId: string, finalText: string, status = 'completed') =>
  event('complete', messageId, { finalText, status })
/** A turn that says this in two pieces, and ends. */
const said = (messageId: string, text: string) => [
  output(messageId, text.slice(0, 3)),
  output(messageId, text.slice(3)),
  complete(messageId, text),
]

/** What a client saw to whom nothing went wrong but what it is given; events are numbered as they stand. */
function seen(name: string, acknowledged: Acknowledged[], events: SseEvent[], more: Partial<Seen> = {}): Seen {
  return { name, acknowledged, after: 0, events: events.map((one, at) => ({ ...one, id: at + 1 })), ...more }
}

/** The same, with these numbers. */
function numbered(events: SseEvent[], ids: (number | undefined)[]): SseEvent[] {
  return events.map((one, at) => ({ ...one, id: ids[at] }))
}

const ONE = { messageId: 'one', answer: 'marker-a-1 said', marker: 'marker-a-1' }
const TWO = { messageId: 'two', answer: 'marker-a-2 said', marker: 'marker-a-2' }
const SAID = [...said('one', ONE.answer), ...said('two', TWO.answer)]

describe('finds nothing', () => {
  it('where all promises were kept', () => {
    const other = { messageId: 'three', marker: 'marker-b-1' }
    const b = seen('b', [other], said('three', 'it is marker-b-1.'))
    expect(findFaults([seen('a', [ONE, TWO], SAID), b])).toEqual([])
  })

  it('where a message failed that had to fail', () => {
    const events = [event('error', 'one', { code: 'x', error: 'X' }), complete('one', '', 'failed')]
    expect(findFaults([seen('a', [{ messageId: 'one', answer: '', status: 'failed' }], events)])).toEqual([])
  })

  it('in notices, which have no number, nor in a stream that began later than the conversation', () => {
    const notice = { id: undefined, name: 'ping', data: {} }
    const events = numbered([notice, SAID[0]!, notice, SAID[1]!, SAID[2]!], [undefined, 7, undefined, 8, 9])
    expect(findFaults([{ name: 'a', acknowledged: [ONE], events }])).toEqual([])
    expect(findFaults([{ name: 'a', acknowledged: [ONE], events, after: 6 }])).toEqual([])
  })
})

describe('names', () => {
  const cases: [string, Seen[], string[]][] = [
    ['what the parser stumbled over', [seen('a', [ONE, TWO], SAID, { faults: ['not a frame'] })], ['a: not a frame']],
    [
      'a gap, once',
      [seen('a', [ONE], [], { events: numbered(said('one', ONE.answer), [1, 3, 4]) })],
      ['a: event 3 came where 2 was due'],
    ],
    [
      'a number that came twice',
      [seen('a', [ONE], [], { events: numbered(said('one', ONE.answer), [1, 1, 2]) })],
      ['a: event 1 came where 2 was due'],
    ],
    [
      'numbers in the wrong order',
      [seen('a', [ONE], [], { events: numbered(said('one', ONE.answer), [2, 1, 3]) })],
      ['a: event 2 came where 1 was due'],
    ],
    [
      'a beginning that is missing',
      [seen('a', [ONE], [], { events: numbered(said('one', ONE.answer), [2, 3, 4]) })],
      ['a: event 2 came where 1 was due'],
    ],
    [
      'a beginning that was seen before',
      [seen('a', [ONE], [], { events: numbered(said('one', ONE.answer), [4, 5, 6]), after: 4 })],
      ['a: event 4 came where 5 was due'],
    ],
    [
      'a second gap behind one that was made good',
      [seen('a', [ONE, TWO], [], { events: numbered(SAID, [1, 3, 3, 4, 6, 7]) })],
      ['a: event 3 came where 2 was due', 'a: event 6 came where 5 was due'],
    ],
    ['a message of which nothing was ever seen', [seen('a', [ONE], [])], ['a: one ended 0 times']],
    [
      'a message that did not end',
      [seen('a', [ONE, TWO], [...said('one', ONE.answer), output('two', TWO.answer)])],
      ['a: two ended 0 times'],
    ],
    [
      'a message that ended twice',
      [seen('a', [ONE], [...said('one', ONE.answer), complete('one', ONE.answer)])],
      ['a: one ended 2 times', 'a: messages ended in the order one,one, accepted were one'],
    ],
    [
      'another end than it had to have, and what was said of it',
      [
        seen(
          'a',
          [{ messageId: 'one' }],
          [event('error', 'one', { code: 'lost', error: 'Gone' }), complete('one', '', 'failed')],
        ),
      ],
      ['a: one ended as failed, not completed: lost Gone'],
    ],
    [
      'a message that was to be cancelled and was completed',
      [seen('a', [{ messageId: 'one', status: 'cancelled' }], said('one', 'all of it'))],
      ['a: one ended as completed, not cancelled: undefined undefined'],
    ],
    [
      'a word behind the end',
      [seen('a', [ONE], [output('one', ONE.answer), complete('one', ONE.answer), output('one', '')])],
      ['a: output of one came behind its end'],
    ],
    [
      'ends in another order than that of acceptance',
      [seen('a', [ONE, TWO], [...said('two', TWO.answer), ...said('one', ONE.answer)])],
      ['a: messages ended in the order two,one, accepted were one,two'],
    ],
    [
      'words that are not the final text',
      [seen('a', [{ messageId: 'one' }], [output('one', 'w1 w3'), complete('one', 'w1 w2 w3')])],
      ['a: one streamed “w1 w3” but ended with “w1 w2 w3”'],
    ],
    [
      'words that were streamed twice',
      [seen('a', [{ messageId: 'one' }], [output('one', 'w1'), output('one', 'w1'), complete('one', 'w1')])],
      ['a: one streamed “w1w1” but ended with “w1”'],
    ],
    [
      'a long text by its ends',
      [seen('a', [{ messageId: 'one' }], [output('one', 'x'.repeat(200)), complete('one', '')])],
      [`a: one streamed “${'x'.repeat(60)}…${'x'.repeat(50)}” (200 characters) but ended with “”`],
    ],
    [
      'a final text that is not the answer',
      [seen('a', [{ messageId: 'one', answer: 'w1 w2' }], said('one', 'w1 w2 w2'))],
      ['a: one said “w1 w2 w2”, not “w1 w2”'],
    ],
    [
      'a final text without its marker',
      [seen('a', [{ messageId: 'one', marker: 'marker-a-1' }], said('one', 'nothing'))],
      ['a: one did not say marker-a-1: “nothing”'],
    ],
    [
      'a message that this client did not send',
      [seen('a', [ONE], [...said('one', ONE.answer), event('status', 'strange')])],
      ['a: saw status of a strange message strange'],
    ],
    [
      'the message of another client',
      [seen('a', [], said('three', 'marker-b-1')), seen('b', [{ messageId: 'three' }], said('three', 'marker-b-1'))],
      [
        'a: saw output of a strange message three',
        'a: saw output of a strange message three',
        'a: saw complete of a strange message three',
        'b: was shown marker-b-1 of nobody',
      ],
    ],
    [
      'the marker of another client',
      [
        seen('a', [{ messageId: 'one' }], said('one', 'marker-b-1')),
        seen('b', [{ messageId: 'three', marker: 'marker-b-1' }], said('three', 'marker-b-1')),
      ],
      ['a: was shown marker-b-1 of b'],
    ],
  ]

  it.each(cases)('%s', (_, conversations, faults) => {
    expect(findFaults(conversations)).toEqual(faults)
  })

  it('each client for itself', () => {
    const lost = (name: string) => seen(name, [{ messageId: `${name}-1` }], [])
    expect(findFaults([lost('a'), seen('b', [ONE, TWO], SAID), lost('c')])).toEqual([
      'a: a-1 ended 0 times',
      'c: c-1 ended 0 times',
    ])
  })
})

it('finds the ends of all messages, or of one', () => {
  const ends = SAID.filter(({ name }) => name === 'complete')
  expect(endsOf(SAID)).toEqual(ends)
  expect(endsOf(SAID, 'two')).toEqual([ends[1]])
})
