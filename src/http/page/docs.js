// Starts the reference viewer on the gateway's own OpenAPI document; nothing is loaded from elsewhere.
window.SwaggerUIBundle({
  url: new URL('docs/openapi.json', document.baseURI).href,
  dom_id: '#reference',
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  validatorUrl: null,
  presets: [window.SwaggerUIBundle.presets.apis],
  layout: 'BaseLayout',
})
