import manifest from '../package.json' with { type: 'json' }

/** Release of this build, as `package.json` says. */
export const VERSION: string = manifest.version
