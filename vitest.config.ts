import { defineConfig } from 'vitest/config'

/**
 * Six projects, run by one `vitest run`:
 * `structure` needs nothing and takes seconds (also part of `npm run check`);
 * `unit` talks to a database, which `tests/support/global-setup.ts` finds or starts;
 * `chart` renders the chart with helm;
 * `e2e` starts the built server as real processes, two files at a time;
 * `faults` does the same and kills, freezes, cuts off and floods them. `npm run soak` is its long form;
 * `rollout` replaces one release by another behind nginx; see `scripts/rollout.sh`.
 */
export default defineConfig({
  test: {
    globalSetup: ['tests/support/global-setup.ts'],
    // Test files wait for the database most of the time; a third one fills the gaps of two cores.
    maxWorkers: 3,
    projects: [
      { extends: true, test: { name: 'structure', include: ['src/layers.test.ts', 'tests/structure/*.test.ts'] } },
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'tests/support/*.test.ts'],
          exclude: ['src/layers.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: { name: 'chart', include: ['tests/chart/*.test.ts'], testTimeout: 120_000, hookTimeout: 120_000 },
      },
      {
        extends: true,
        test: {
          name: 'e2e',
          include: ['tests/e2e/*.test.ts'],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // More than half of the time they wait, for processes to come and go.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'faults',
          include: ['tests/faults/*.test.ts'],
          // A bound on what hangs, and no promise: `npm run soak` runs each of them for as long as it was told to.
          testTimeout: 600_000 + 1000 * (Number(process.env.SOAK_SECONDS) || 0),
          hookTimeout: 120_000,
          fileParallelism: false,
          // Behind everything else, so that no other file wants the machine at the same time.
          sequence: { groupOrder: 2 },
        },
      },
      {
        extends: true,
        test: {
          name: 'rollout',
          include: ['tests/rollout/*.test.ts'],
          testTimeout: 900_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          sequence: { groupOrder: 3 },
        },
      },
    ],
  },
})
