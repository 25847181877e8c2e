# An interpreter from source, architectures told apart by the shell.
FROM busybox
ENV PATH /usr/local/bin:$PATH
ENV GPG_FINGER A035C8C1
ENV LANG_VERSION 3.12.1
RUN set -eux; \
	\
	arch="$(uname -m)"; \
	case "$arch" in \
		x86_64) flags='-O3' ;; \
		aarch64) flags='-O2' ;; \
	esac; \
	\
	for f in a b; do \
		echo "${f%%.*}" "$flags"; \
	done

RUN for src in idle3 pydoc3; do dst="$(echo "$src" | tr -d 3)"; ln -svT "$src" "/usr/local/bin/$dst"; done
CMD ["python3"]
