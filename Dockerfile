# The gateway as an image: `serve` by default, or `migrate`, `bootstrap`, `doctor`, `secrets …`, `version`.
# Builds with BuildKit, podman and buildah: nothing in here is the language of one of them. docs/image.md has the commands,
# and how the two bases are pinned by digest.
ARG NODE_IMAGE=docker.io/library/node:24-trixie-slim
# Debian 13: its setpriv has what walls workers in.
ARG RUNTIME_IMAGE=docker.io/library/debian:trixie-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY scripts/build.ts scripts/
COPY src src
RUN node scripts/build.ts
# For production; and the image has a Node of its own, so the ones that npm brings for checkouts go. What only tools of
# development read is more than half of the packages: maps to sources, and types.
RUN npm prune --omit=dev --omit=optional --omit=peer --no-audit --no-fund \
  && rm -rf node_modules/.cache node_modules/.bin node_modules/node-linux-* node_modules/node-win-* \
  && find node_modules -type f \( -name '*.map' -o -name '*.ts' -o -name '*.mts' -o -name '*.cts' \) -delete
# Compiled code of the workers, which counts only for the user that made it. Afterwards it is root's, so that no worker
# can change what the next one runs.
RUN chown -R 10001:10001 dist/worker \
  && setpriv --reuid=10001 --regid=10001 --clear-groups node scripts/build.ts --prime \
  && chown -R 0:0 dist/worker \
  && chmod -R a+rX dist node_modules

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="lobu" \
  org.opencontainers.image.description="Lobu gateway: AI agents for whole organizations, on Postgres alone" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.source="${SOURCE}" \
  org.opencontainers.image.licenses="Apache-2.0"
# The first process of a container must reap the orphans of all others, which Node does not.
RUN apt-get update \
  && apt-get install -y --no-install-recommends tini \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log \
  && chmod 0711 /usr/bin/tini \
  && install -d -o 10001 -g 10001 -m 0700 /data \
  && ln -s /app/dist/main.js /usr/local/bin/lobu
# Run and not read: so the kernel lets no other process of this user look into the gateway (docs/security.md). The init likewise.
COPY --from=build --chmod=0711 /usr/local/bin/node /usr/local/bin/node
WORKDIR /app
COPY package.json LICENSE README.md ./
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
ENV NODE_ENV=production \
  LOBU_DATA_DIR=/data \
  HOME=/tmp
# By number, so that a cluster can see that it is not root.
USER 10001:10001
EXPOSE 8787
# Named by its path: the first process reads no PATH of a stranger, and no shell is needed for anything.
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/node", "/app/dist/main.js"]
CMD ["serve"]
