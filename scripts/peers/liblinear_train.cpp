// Trains liblinear on a libsvm text file, as its command-line tool would: reads line by line with strtok and strtod,
// calls train(), prints seconds, the final objective and the process' peak memory. The library's wheel on PyPI holds no such tool; its source
// archive holds the library that this is linked with. Compiled with MULTICORE it is for liblinear-multicore.
//
// Usage: liblinear_train FILE SOLVER EPSILON [THREADS]   (C = 1, no bias)
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>
#include "linear.h"

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Bytes, as Linux counts them for this program alone: getrusage's figure starts with what the parent had when it forked.
static long peak_memory() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.compare(0, 6, "VmHWM:") == 0) return atol(line.c_str() + 6) * 1024L;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: liblinear_train FILE SOLVER EPSILON [THREADS]\n");
        return 2;
    }
    FILE *file = fopen(argv[1], "r");
    if (!file) {
        perror(argv[1]);
        return 1;
    }
    double start = now();
    std::vector<double> labels;
    std::vector<size_t> starts;
    std::vector<feature_node> nodes;
    char *line = nullptr;
    size_t capacity = 0;
    int features = 0;
    while (getline(&line, &capacity, file) > 0) {
        char *token = strtok(line, " \t\n");
        if (!token) continue;
        labels.push_back(strtod(token, nullptr));
        starts.push_back(nodes.size());
        for (;;) {
            char *index = strtok(nullptr, ":");
            char *value = strtok(nullptr, " \t");
            if (!value) break;
            feature_node node;
            node.index = (int)strtol(index, nullptr, 10);
            node.value = strtod(value, nullptr);
            if (node.index > features) features = node.index;
            nodes.push_back(node);
        }
        feature_node end = {-1, 0.0};
        nodes.push_back(end);
    }
    free(line);
    fclose(file);
    std::vector<feature_node *> rows;
    for (size_t s : starts) rows.push_back(&nodes[s]);
    double read = now() - start;

    problem data = {};
    data.l = (int)labels.size();
    data.n = features;
    data.y = labels.data();
    data.x = rows.data();
    data.bias = -1;
    parameter options = {};
    options.solver_type = atoi(argv[2]);
    options.eps = atof(argv[3]);
    options.C = 1;
    options.p = 0.1;
    options.nu = 0.5;
    options.regularize_bias = 1;
#ifdef MULTICORE
    options.nr_thread = argc == 5 ? atoi(argv[4]) : 1;
#endif
    set_print_string_function([](const char *) {});
    start = now();
    model *trained = train(&data, &options);
    double training = now() - start;

    // (1/n) sum f(y w.x) + 1/(2n) |w|^2, or + (1/n) |w|_1, f being the solver's loss
    bool sparse = options.solver_type == 5 || options.solver_type == 6;
    double loss = 0, penalty = 0;
    for (int j = 0; j < trained->nr_feature; j++)
        penalty += sparse ? fabs(trained->w[j]) : trained->w[j] * trained->w[j] / 2;
    for (int i = 0; i < data.l; i++) {
        double margin = 0;
        for (feature_node *x = data.x[i]; x->index != -1; x++) margin += trained->w[x->index - 1] * x->value;
        if (labels[i] != trained->label[0]) margin = -margin;
        double short_of_one = margin < 1 ? 1 - margin : 0;
        if (options.solver_type == 3)
            loss += short_of_one;
        else if (options.solver_type == 1 || options.solver_type == 2)
            loss += short_of_one * short_of_one;
        else
            loss += margin > 0 ? log1p(exp(-margin)) : -margin + log1p(exp(margin));
    }
    printf("{\"read\": %.6f, \"train\": %.6f, \"objective\": %.12f, \"memory\": %ld}\n", read, training,
           (loss + penalty) / data.l, peak_memory());
    free_and_destroy_model(&trained);
    return 0;
}
