# check=skip=SecretsUsedInArgOrEnv
# Dependencies apart from sources, so that the cache holds.
FROM busybox AS deps
WORKDIR /app
COPY package.json package-lock.json* ./
RUN --mount=type=cache,target=/root/.npm \
    --mount=type=secret,id=npmrc,target=/root/.npmrc,required=true \
    npm ci --omit=dev

FROM busybox AS builder
WORKDIR /app
COPY --from=deps /app/node_modules ./node_modules
COPY . .
ARG NEXT_PUBLIC_TOKEN
ENV NEXT_TELEMETRY_DISABLED=1
RUN npm run build

FROM busybox AS runner
WORKDIR /app
ENV NODE_ENV=production PORT=3000
COPY --from=builder --chown=1001:1001 --chmod=0755 /app/.next/standalone ./
COPY --from=builder --chown=1001:1001 /app/.next/static ./.next/static
USER 1001
EXPOSE ${PORT}
CMD ["node", "server.js"]
