/* What the benchmarks start and kill: small, so that the kernel's work is what they measure.
 *
 *   actor storm N                    N processes that end at once, one after the other
 *   actor deaths N PER_SECOND        N processes that end by a signal, so many a second at most
 *   actor exits N PER_SECOND         the same of processes that end by themselves
 *   actor threads N                  the same of threads, so one process's end after N threads'
 *   actor crowd N                    N processes that wait, their pids on standard output;
 *                                    at the end of standard input it kills them
 *   actor signals N                  at the end of standard input it signals itself N times, and
 *                                    ends
 *   actor linger MIB                 touches so much memory, says "ready", waits
 *   actor service FIFO LIFELINE ID MIB
 *                                    writes "running ID PID NS" to the FIFO, NS being the first
 *                                    thing main reads, CLOCK_MONOTONIC; if there is memory to
 *                                    touch, "started …" instead, and "touched …" after that.
 *                                    Ends when LIFELINE has no writer any more. In a PID
 *                                    namespace, PID is the one outside if FIFO.proc is the
 *                                    outer /proc.
 *   actor http FIFO LIFELINE ID PORT as service, and answers HTTP on loopback: on the socket of
 *                                    LISTEN_FDS, on standard input if that is one, else on its own
 *   actor script FILE                for "#!ACTOR script": the second line has the arguments
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "actor: ");
	perror(what);
	return 1;
}

static long long monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* At real-time priority whoever is woken waits for a core whose process has the same priority, and
 * giving back much memory takes long: below those who are to act meanwhile.
 */
static void step_back(void)
{
	struct sched_param parameters = { .sched_priority = 1 };

	if (sched_getscheduler(0) == SCHED_FIFO)
		sched_setscheduler(0, SCHED_FIFO, &parameters);
}

static void touch(long mebibytes)
{
	size_t size = (size_t)mebibytes << 20;
	char *memory = mebibytes > 0 ? malloc(size) : NULL;

	if (mebibytes > 0)
		step_back();

	if (memory) {
		memset(memory, 1, size);
		/* The memory is never read; keep the compiler from leaving it out. */
		__asm__ volatile("" : : "r"(memory) : "memory");
	}
}

static int storm(long count)
{
	for (long i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			return fail("fork");
		if (child == 0)
			_exit(0);
		if (waitpid(child, NULL, 0) < 0)
			return fail("waitpid");
	}
	return 0;
}

static int at_a_rate(long count, long per_second, int by_signal)
{
	long long began = monotonic_ns();

	for (long i = 0; i < count; i++) {
		long long due = began + i * 1000000000LL / (per_second > 0 ? per_second : 1);
		struct timespec at = { .tv_sec = due / 1000000000, .tv_nsec = due % 1000000000 };
		pid_t child;

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		child = vfork();
		if (child < 0)
			return fail("vfork");
		if (child == 0) {
			if (by_signal)
				kill(getpid(), SIGKILL);
			_exit(0);
		}
		if (waitpid(child, NULL, 0) < 0)
			return fail("waitpid");
	}
	return 0;
}

static void *nothing(void *argument)
{
	return argument;
}

static int threads(long count)
{
	for (long i = 0; i < count; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, nothing, NULL))
			return fail("pthread_create");
		pthread_join(thread, NULL);
	}
	return 0;
}

static int crowd(long count)
{
	pid_t *children = calloc((size_t)count, sizeof *children);
	pid_t own = getpid();
	char byte;

	if (!children)
		return fail("calloc");
	for (long i = 0; i < count; i++) {
		children[i] = fork();
		if (children[i] < 0)
			return fail("fork");
		if (children[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			while (getppid() == own)
				pause();
			_exit(0);
		}
	}
	for (long i = 0; i < count; i++)
		printf("%d ", (int)children[i]);
	printf("\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	for (long i = 0; i < count; i++)
		kill(children[i], SIGKILL);
	for (long i = 0; i < count; i++)
		waitpid(children[i], NULL, 0);
	return 0;
}

static void ignore(int signal)
{
	(void)signal;
}

static int signals(long count)
{
	char byte;

	signal(SIGUSR1, ignore);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	for (long i = 0; i < count; i++)
		raise(SIGUSR1);
	return 0;
}

static int linger(long mebibytes)
{
	touch(mebibytes);
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}

static int told_pid(const char *path)
{
	char link[256], pid[16];
	ssize_t length;

	snprintf(link, sizeof link, "%s.proc/self", path);
	length = readlink(link, pid, sizeof pid - 1);
	if (length <= 0)
		return (int)getpid();
	pid[length] = 0;
	return atoi(pid);
}

static void tell(const char *path, const char *what, const char *id, long long time_ns)
{
	char line[128];
	int length = snprintf(line, sizeof line, "%s %s %d %lld\n", what, id, told_pid(path), time_ns);
	int fifo = open(path, O_WRONLY);

	if (fifo < 0)
		_exit(fail(path));
	/* Shorter than PIPE_BUF: lines of several services do not mix. */
	if (write(fifo, line, (size_t)length) != length)
		_exit(fail("write"));
	close(fifo);
}

static int open_lifeline(const char *path)
{
	/* Opening would block once there is no writer any more; reading has to. */
	int lifeline = open(path, O_RDONLY | O_NONBLOCK);

	if (lifeline < 0)
		_exit(fail(path));
	return lifeline;
}

static int service(char **arguments, long long started_ns)
{
	long mebibytes = atol(arguments[3]);
	int lifeline;
	char byte;

	tell(arguments[0], mebibytes > 0 ? "started" : "running", arguments[2], started_ns);
	if (mebibytes > 0) {
		touch(mebibytes);
		tell(arguments[0], "touched", arguments[2], monotonic_ns());
	}
	lifeline = open_lifeline(arguments[1]);
	fcntl(lifeline, F_SETFL, 0);
	while (read(lifeline, &byte, 1) != 0)
		;
	return 0;
}

static int listening(long port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct stat found;
	int on = 1, fd;

	if (getenv("LISTEN_FDS"))
		return 3;
	if (!fstat(0, &found) && S_ISSOCK(found.st_mode))
		return 0;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 128))
		_exit(fail("bind"));
	return fd;
}

static int http(char **arguments, long long started_ns)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
	struct pollfd polled[2] = {
		{ .fd = listening(atol(arguments[3])), .events = POLLIN },
		{ .fd = open_lifeline(arguments[1]), .events = POLLIN },
	};
	char request[1024];

	tell(arguments[0], "running", arguments[2], started_ns);
	while (poll(polled, 2, -1) >= 0 && !polled[1].revents) {
		int client = accept4(polled[0].fd, NULL, NULL, SOCK_CLOEXEC);

		if (client < 0)
			continue;
		if (read(client, request, sizeof request) > 0 &&
		    send(client, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0)
			perror("actor: send");
		close(client);
	}
	return 0;
}

static int script(const char *path, long long started_ns)
{
	char text[1024];
	char *words[8];
	int count = 0;
	FILE *file = fopen(path, "re");

	if (!file || !fgets(text, sizeof text, file) || !fgets(text, sizeof text, file))
		return fail(path);
	fclose(file);
	for (char *word = strtok(text, " \n"); word && count < 8; word = strtok(NULL, " \n"))
		words[count++] = word;
	if (count == 5 && !strcmp(words[0], "service"))
		return service(words + 1, started_ns);
	if (count == 5 && !strcmp(words[0], "http"))
		return http(words + 1, started_ns);
	fprintf(stderr, "actor: %s: wrong arguments\n", path);
	return 2;
}

int main(int argc, char **argv)
{
	long long started_ns = monotonic_ns();

	if (argc == 6 && !strcmp(argv[1], "service"))
		return service(argv + 2, started_ns);
	if (argc == 6 && !strcmp(argv[1], "http"))
		return http(argv + 2, started_ns);
	/* s6 adds the name of the service. */
	if (argc >= 3 && !strcmp(argv[1], "script"))
		return script(argv[2], started_ns);
	if (argc == 3 && !strcmp(argv[1], "storm"))
		return storm(atol(argv[2]));
	if (argc == 4 && !strcmp(argv[1], "deaths"))
		return at_a_rate(atol(argv[2]), atol(argv[3]), 1);
	if (argc == 4 && !strcmp(argv[1], "exits"))
		return at_a_rate(atol(argv[2]), atol(argv[3]), 0);
	if (argc == 3 && !strcmp(argv[1], "threads"))
		return threads(atol(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "crowd"))
		return crowd(atol(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "signals"))
		return signals(atol(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "linger"))
		return linger(atol(argv[2]));
	fprintf(stderr, "actor: wrong arguments\n");
	return 2;
}
