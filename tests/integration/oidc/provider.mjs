// An OpenID Connect provider that is certified for that, set up for the tests.
//
//   node provider.mjs CONFIGURATION
//
// CONFIGURATION is a JSON file with
//
//   host, port   where to listen; together they are the issuer
//   tls          optional: the paths of a certificate and its key (PEM) to speak TLS with
//   clients      as the provider takes them: client_id, client_secret
//   jwks         the private keys that sign tokens
//   audiences    whom tokens may be for, each with their format ("jwt" or "opaque") and for how
//                many seconds they hold
//
// Everything is kept in memory: tokens that are not JWTs are unknown after a restart.

import { readFileSync } from "node:fs";
import { createServer } from "node:https";

import Provider, { errors } from "oidc-provider";

const { host, port, tls, clients, jwks, audiences } = JSON.parse(
  readFileSync(process.argv[2], "utf8"),
);

const provider = new Provider(`${tls ? "https" : "http"}://${host}:${port}`, {
  clients: clients.map((client) => ({
    grant_types: ["client_credentials"],
    redirect_uris: [],
    response_types: [],
    ...client,
  })),
  jwks,
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // Many providers call `audience` what the standard (RFC 8707) calls `resource`.
      defaultResource: (context) => context.oidc.body?.audience,
      getResourceServerInfo: (context, audience) => {
        if (!(audience in audiences)) {
          throw new errors.InvalidTarget();
        }
        const { format, seconds } = audiences[audience];
        return { audience, scope: "", accessTokenFormat: format, accessTokenTTL: seconds };
      },
    },
  },
});

provider.on("grant.success", () => console.log("gave a token"));
provider.on("grant.error", (context, error) => console.log("gave no token:", error.message));
provider.on("server_error", (context, error) => console.log(error));

if (tls) {
  const shown = { cert: readFileSync(tls.certificate), key: readFileSync(tls.key) };
  createServer(shown, provider.callback()).listen(port, host);
} else {
  provider.listen(port, host);
}
