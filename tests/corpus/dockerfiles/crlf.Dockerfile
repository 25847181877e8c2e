FROM busybox
RUN echo a \
  && echo b
COPY <<E /x
text
E
