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
 *                                    Ends when LIFELINE has no writer any more.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
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

static void tell(int fifo, const char *what, const char *id, long long time_ns)
{
	char line[128];
	int length = snprintf(line, sizeof line, "%s %s %d %lld\n", what, id, (int)getpid(), time_ns);

	/* Shorter than PIPE_BUF: lines of several services do not mix. */
	if (write(fifo, line, (size_t)length) != length)
		_exit(fail("write"));
}

static int service(char **arguments, long long started_ns)
{
	long mebibytes = atol(arguments[3]);
	int fifo = open(arguments[0], O_WRONLY);
	int lifeline;
	char byte;

	if (fifo < 0)
		return fail(arguments[0]);
	tell(fifo, mebibytes > 0 ? "started" : "running", arguments[2], started_ns);
	if (mebibytes > 0) {
		touch(mebibytes);
		tell(fifo, "touched", arguments[2], monotonic_ns());
	}
	/* Opening would block once there is no writer any more; reading has to. */
	lifeline = open(arguments[1], O_RDONLY | O_NONBLOCK);
	if (lifeline < 0)
		return fail(arguments[1]);
	fcntl(lifeline, F_SETFL, 0);
	while (read(lifeline, &byte, 1) != 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	long long started_ns = monotonic_ns();

	if (argc == 6 && !strcmp(argv[1], "service"))
		return service(argv + 2, started_ns);
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
