/* The least that a supervisor can do, and what respawn is measured against: one thread that waits
 * for its children and starts each again. It looks at nothing, logs nothing, remembers nothing.
 *
 *   floor FILE     the services: a command on each line, words with blanks between them
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define WORDS 8

extern char **environ;

struct service {
	char *words[WORDS + 1];
	pid_t pid;
};

static void start(struct service *service)
{
	int error = posix_spawn(&service->pid, service->words[0], NULL, NULL, service->words, environ);

	if (error) {
		fprintf(stderr, "floor: %s: %s\n", service->words[0], strerror(error));
		exit(1);
	}
}

static size_t read_services(const char *path, struct service **services)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0, count = 0;

	*services = NULL;
	while (file && getline(&line, &size, file) > 0) {
		int words = 0;

		*services = realloc(*services, (count + 1) * sizeof **services);
		if (!*services)
			exit(1);
		memset(&(*services)[count], 0, sizeof **services);
		for (char *word = strtok(line, " \n"); word && words < WORDS; word = strtok(NULL, " \n"))
			(*services)[count].words[words++] = strdup(word);
		count += words > 0;
	}
	if (file)
		fclose(file);
	free(line);
	return count;
}

int main(int argc, char **argv)
{
	struct service *services;
	size_t count = argc == 2 ? read_services(argv[1], &services) : 0;

	if (!count) {
		fprintf(stderr, "floor: no services\n");
		return 2;
	}
	for (size_t i = 0; i < count; i++)
		start(&services[i]);
	for (;;) {
		pid_t ended = waitpid(-1, NULL, 0);

		if (ended < 0) {
			perror("floor: waitpid");
			return 1;
		}
		for (size_t i = 0; i < count; i++) {
			if (services[i].pid == ended) {
				start(&services[i]);
				break;
			}
		}
	}
}
