import { html } from 'hono/html'
import { describeScope } from '../../domain/accounts/scopes.ts'

type Html = ReturnType<typeof html>

/** Whom a page speaks to. */
export interface Reader {
  name: string
  email: string
}

/** The frame of the pages for people who let a program in. Everything that is filled in is escaped by `html`. */
function page(title: string, content: Html): Html {
  return html`<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>${title} · Lobu</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/page.css">
    <link rel="stylesheet" href="/oauth.css">
  </head>
  <body>
    <header class="top">
      <svg class="mark" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
        <rect width="24" height="24" rx="7"/>
        <path d="M8 6v11h8"/>
      </svg>
      <h1>Lobu <span>gateway</span></h1>
    </header>
    <main class="narrow">
      <section class="card" aria-labelledby="title">
        <h2 id="title">${title}</h2>
        ${content}
      </section>
    </main>
  </body>
</html>
`
}

/** A page that only says something. */
export function messagePage(title: string, ...sentences: string[]): Html {
  return page(title, html`${sentences.map((sentence) => html`<p>${sentence}</p>`)}`)
}

/** Asks for the code that a device shows. */
export function deviceCodePage(reader: Reader, { fault }: { fault?: string } = {}): Html {
  return page(
    'Connect a device',
    html`
        <p>Enter the code that your device or terminal shows.</p>
        ${fault ? html`<p class="fault" role="alert">${fault}</p>` : ''}
        <form method="get" action="/device" autocomplete="off">
          <label for="user_code">Code</label>
          <input id="user_code" name="user_code" class="code" maxlength="20" required autofocus spellcheck="false"
            autocapitalize="characters">
          <button type="submit">Continue</button>
        </form>
        ${signedInAs(reader)}`,
  )
}

/** Asks whether the device may come in. */
export function devicePage(reader: Reader, args: { userCode: string; clientName: string; scopes: string[] }): Html {
  const { userCode, clientName, scopes } = args
  return page(
    `Let ${clientName} in?`,
    html`
        <p>A device wants to use this gateway as you. Check that it shows this code:</p>
        <p class="code">${userCode.slice(0, 4)}-${userCode.slice(4)}</p>
        ${scopeList(scopes)}
        <p class="warning">Approve only if you have just started this yourself. Nobody from Lobu will ever ask you to.</p>
        <form method="post" action="/device">
          <input type="hidden" name="user_code" value="${userCode}">
          ${decisions()}
        </form>
        ${signedInAs(reader)}`,
  )
}

/** Asks whether a program may come in. */
export function consentPage(
  reader: Reader,
  args: { clientName: string; redirectsTo: string; scopes: string[]; signedQuery: string },
): Html {
  const { clientName, redirectsTo, scopes, signedQuery } = args
  return page(
    `Let ${clientName} in?`,
    html`
        <p>The program calls itself “${clientName}” and wants to use this gateway as you. You will be sent to
          <strong>${redirectsTo}</strong>.</p>
        ${scopeList(scopes)}
        <p class="warning">Approve only if you have just started this yourself, and know the place you are sent to.</p>
        <form method="post" action="/consent">
          <input type="hidden" name="oauth_query" value="${signedQuery}">
          ${decisions()}
        </form>
        ${signedInAs(reader)}`,
  )
}

function scopeList(scopes: string[]): Html {
  const meanings = scopes.map(describeScope).filter((meaning) => meaning !== null)
  return html`
        <h3>In each of your organizations, as far as your role there allows, it may</h3>
        <ul class="scopes">${meanings.map((meaning) => html`<li>${meaning}</li>`)}</ul>`
}

function decisions(): Html {
  return html`<div class="row">
            <button type="submit" name="decision" value="approve">Approve</button>
            <button type="submit" name="decision" value="deny" class="quiet">Deny</button>
          </div>`
}

function signedInAs({ name, email }: Reader): Html {
  return html`<p class="who">Signed in as ${name} (${email})</p>`
}
