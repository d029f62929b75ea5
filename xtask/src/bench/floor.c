/* The least that a supervisor can do, and what respawn is measured against: one thread that waits
 * for its children and starts each again. It looks at nothing, logs nothing, remembers nothing.
 *
 *   floor COUNT FIFO LIFELINE MIB ACTOR     COUNT services "actor service", with IDs floor-0 …
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

static char **arguments;

static pid_t start(long number)
{
	char id[32];
	char *child[] = { arguments[5], "service", arguments[2], arguments[3], id, arguments[4], NULL };
	pid_t pid;
	int error;

	snprintf(id, sizeof id, "floor-%ld", number);
	error = posix_spawn(&pid, child[0], NULL, NULL, child, environ);
	if (error) {
		fprintf(stderr, "floor: %s: %s\n", child[0], strerror(error));
		exit(1);
	}
	return pid;
}

int main(int argc, char **argv)
{
	long count = argc == 6 ? atol(argv[1]) : 0;
	pid_t *pids = calloc((size_t)count + 1, sizeof *pids);

	if (count < 1 || !pids) {
		fprintf(stderr, "floor: wrong arguments\n");
		return 2;
	}
	arguments = argv;
	for (long i = 0; i < count; i++)
		pids[i] = start(i);
	for (;;) {
		pid_t ended = waitpid(-1, NULL, 0);

		if (ended < 0) {
			perror("floor: waitpid");
			return 1;
		}
		for (long i = 0; i < count; i++) {
			if (pids[i] == ended) {
				pids[i] = start(i);
				break;
			}
		}
	}
}
