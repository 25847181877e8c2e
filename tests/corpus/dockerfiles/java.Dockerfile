FROM busybox AS extract
WORKDIR /build
ARG JAR_FILE=target/*.jar
COPY ${JAR_FILE} application.jar
RUN java -Djarmode=layertools -jar application.jar extract --destination extracted
FROM busybox
VOLUME /tmp
COPY --from=extract /build/extracted/dependencies/ ./
COPY --from=extract /build/extracted/spring-boot-loader/ ./
COPY --from=extract /build/extracted/application/ ./
ENV JAVA_OPTS=""
ENTRYPOINT exec java $JAVA_OPTS -jar /application.jar
