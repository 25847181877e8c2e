# A base image for others to build on.
FROM busybox
WORKDIR /usr/src/app
ONBUILD ARG ENVIRONMENT=production
ONBUILD ENV NODE_ENV=${ENVIRONMENT}
ONBUILD COPY package.json ./
ONBUILD RUN install "$NODE_ENV"
ONBUILD COPY . .
ONBUILD HEALTHCHECK CMD true
CMD ["start"]
