// Jacobians of piecewise-linear networks: the reverse pass of K cotangents at once, over active positions only.
//
// A program (see program.py) lists *operations* in reverse order: the first holds the cotangents of the outputs, the
// last ones write the Jacobian. The cotangents of the value that an operation returned are its *slot*: a compressed
// list of rows, sorted by position and channel, with K values each. An operation passes them on to its inputs along
// *edges*. On its way an edge crosses elementwise steps and poolings, which send each element to one element below with
// a factor, or drop it: a ReLU that is off, a value that lost its max-pool.
//
// This is the same for all K cotangents of an image. So the structure (which rows exist, and where each element of an
// edge arrives) is computed once per image, from masks alone; then the values follow, in blocks of cotangents that fit
// into registers. The order of every sum depends on its own image only, not on the images next to it. Elements of a
// value are numbered per image, in row-major order of the tensor: one with channel c and position p has the number
// c * channel_step + p * position_step.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifdef CHECKED
#define CHECK(test) ((test) ? (void)0 : throw std::out_of_range("line " + std::to_string(__LINE__) + ": " #test))
#else
#define CHECK(test) ((void)0)
#endif
#define INLINE __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#ifdef __clang__
#define SHUFFLE(one, other, ...) __builtin_shufflevector(one, other, __VA_ARGS__)
#else
#define SHUFFLE(one, other, ...) __builtin_shuffle(one, other, decltype(one < other){__VA_ARGS__})
#endif
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
namespace {
constexpr int BLOCK = 9;                     // weights that `scatter` applies to a row at once, with sums in registers
constexpr int MOST_COTANGENTS = 12;          // at a time: their sums, with a vector each, fit into 16 registers
constexpr int WIDEST = 16;                   // cotangents read as one vector, beyond the end of a row if need be
constexpr int MOST_FEW = 10;                 // lanes of a panel that are summed one by one, at most
constexpr int64_t GROUP_BYTES = 3'000'000;   // from which a group takes no further image: what fits into the caches,
constexpr int64_t FEWEST_IMAGES = 4;         // but at least these, which share the weights that are read,
constexpr int64_t MOST_BYTES = 24'000'000;   // unless they are as large as this
constexpr int64_t BAND_BYTES = 4'000'000;    // of the sums that `scatter` keeps at once, or one line of the image
static_assert(MOST_COTANGENTS <= WIDEST);
enum StepKind { KEEP_POSITIVE, MULTIPLY, POOL, TABLE };
enum OperationKind { IDENTITY, GATHER, SCATTER, POSITIONS };

// A view of memory. The checked build asserts every index.
template <class T> struct View {
    T* data = nullptr;
    int64_t size = 0;
    T& operator[](int64_t index) const { return CHECK(index >= 0 && index < size), data[index]; }
    T* begin() const { return data; }
    T* end() const { return data + size; }
    View part(int64_t start, int64_t count) const {
        return CHECK(start >= 0 && count >= 0 && start + count <= size), View{data + start, count};
    }
};
// A vector whose indices the checked build asserts, too.
template <class T> struct Array : std::vector<T> {
    View<T> all() { return {this->data(), length()}; }
    View<const T> all() const { return {this->data(), length()}; }
    int64_t length() const { return static_cast<int64_t>(this->size()); }
    T& operator[](int64_t index) { return all()[index]; }
    const T& operator[](int64_t index) const { return all()[index]; }
};
// Reads the program: words of 8 bytes, and records of such; the number of elements follows an address.
struct Reader {
    View<const int64_t> words;
    int64_t place = 0;
    template <class Record> void read(Record& target) {
        std::memcpy(&target, words.part(place, sizeof target / 8).data, sizeof target), place += sizeof target / 8;
    }
    template <class Record> void read(Array<Record>& target) {
        target.resize(count());
        for (auto& record : target) read(record);
    }
    template <class... Targets> void into(Targets&... targets) { (read(targets), ...); }
    int64_t count() { return words[place++]; }
};

// A program, which runs on a group of images at a time, and for each on a block of cotangents at a time.
template <class T> struct Runner {
    static constexpr int64_t LANES = VECTOR_BYTES / sizeof(T);
    typedef T Panel __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));  // values by lane
    struct Step {
        int64_t kind, image_step, outer, inner;  // positions of a channel above and below a pooling
        View<const T> values;
        View<const int64_t> winners;
        View<const int32_t> table;
    };
    // A spatial axis of a convolution. For every place on it, the runs of neighboring places on the other side that a
    // tap reaches: first … last, each with the tap `sum` - place. Along an axis without strides all taps form one run.
    struct Axis {
        View<const int32_t> starts, first, last, sum;
    };
    struct Layer {
        int64_t kind, slot, channel_step, position_step;  // steps of the input, where the results of this pass arrive
        int64_t groups, in_channels, out_channels, width, taps, kernel_width, in[2], out[2];  // height and width
        View<const T> weights, tail;
        View<const int32_t> order, starts, places;  // input channels of the lanes; sums over positions
        View<const int32_t> reach[2];  // `scatter`: where the products of each line, and at each place of a line, go
        Axis axes[2];                  // `gather`: from input to output
        int64_t element(int64_t channel, int64_t place) const { return channel * channel_step + place * position_step; }
    };
    struct Operation : Layer {
        Array<int64_t> edges;
    };
    struct End {  // the lower end of an edge for one image: where each element arrives
        Array<int32_t> rows;     // -1: dropped
        Array<T> factors;        // empty: all 1
        Array<uint16_t> needed;  // for `gather`, by panel and position: a bit for each lane that is not dropped
    };
    struct Edge {
        int64_t target, size;  // slot, or -1 for the input; number of elements at its upper end
        int64_t is_plain;      // elements keep their number, and those of a channel follow each other
        Array<Step> steps;
        Array<End> images;  // at least those of the group
    };
    struct Rows {  // the rows of a slot for one image
        Array<uint64_t> words;  // by 64 channels, group and position: a bit for each channel that has a row
        Array<int32_t> before;  // rows before those of each word; for the first 64 channels: before each position
        Array<int32_t> channels, offsets;  // within the group; row of the weights, less what depends on the tap
    };
    struct Slot {
        int64_t channels, positions, channel_step, groups, is_merged;  // each group of channels has all positions
        Array<int64_t> arriving;  // edges; merged: several contributions may arrive in one row
        Array<Rows> images;       // at least those of the group
        Array<T> values;          // of the rows of all images
        Array<int64_t> bases;     // by image: index of its first value
    };
    struct Sink {  // where an edge ends: element `at` adds `factors[at]` times its K values to a row
        View<const int32_t> rows;
        View<const T> factors;
        View<T> to;
        int64_t row_step, step, is_merged;  // steps from row to row, and from cotangent to cotangent
    };
    struct Run {  // rows that follow each other, and the place of the weights for an offset of 0
        int64_t weights, first, last;
    };
    int64_t outputs, inputs, is_input_merged, cotangent_step;
    View<const int64_t> seeds;  // elements of the output that have a cotangent
    View<const T> cotangents;   // (image, output, seed); with a step of 0, all images share them
    Array<Slot> slots;
    Array<Edge> edges;
    Array<Operation> operations;
    int64_t first_image, images, lowest, width;  // of the current group and block of cotangents
    View<T> jacobian;                            // of the group
    Array<int64_t> starts, targets;              // of `scatter`, and its sums
    Array<T> sums;
    Array<Run> runs;  // the first `used_runs` reach the current position of `gather`
    int64_t used_runs;
    explicit Runner(Reader reader) {
        reader.into(outputs, inputs, is_input_merged, cotangent_step, seeds, cotangents);
        slots.resize(reader.count()), operations.resize(slots.length());
        for (auto& [channels, positions, channel_step, groups, is_merged, arriving, images, values, bases] : slots)
            reader.into(channels, positions, channel_step, groups, is_merged, arriving);
        edges.resize(reader.count());
        for (auto& edge : edges) reader.into(edge.target, edge.size, edge.is_plain, edge.steps);
        for (auto& operation : operations) reader.into(static_cast<Layer&>(operation), operation.edges);
    }
    void run(int64_t first, int64_t last, T* output) {
        for (first_image = first; first_image < last; first_image += images, output += images * outputs * inputs) {
            int64_t bytes = images = 0;
            while (first_image + images < last && bytes < (images < FEWEST_IMAGES ? MOST_BYTES : GROUP_BYTES))
                bytes += build(images++);
            jacobian = {output, images * outputs * inputs};
            const int64_t blocks = (outputs + MOST_COTANGENTS - 1) / MOST_COTANGENTS;
            for (int64_t n = 0; n < blocks; ++n)
                lowest = outputs * n / blocks, width = outputs * (n + 1) / blocks - lowest, fill();
        }
    }
    // Compute the structure of one image; returns the bytes that its values take at most.
    int64_t build(int64_t image) {
        int64_t bytes = 0;
        for (auto& slot : slots) slot.images.resize(std::max(slot.images.length(), image + 1));
        for (auto& edge : edges) edge.images.resize(std::max(edge.images.length(), image + 1)), bytes += edge.size * 8;
        slots[0].images[image].channels.assign(seeds.begin(), seeds.end());
        slots[0].images[image].before.assign({0, static_cast<int32_t>(seeds.size)});
        for (const auto& operation : operations) {
            const auto& channels = slots[operation.slot].images[image].channels;
            if (operation.slot) number(operation, image);
            bytes += channels.length() * sizeof(T) * MOST_COTANGENTS;
            for (const auto number : operation.edges) {
                auto& edge = edges[number];
                auto& rows = edge.images[image].rows;
                if (operation.kind != IDENTITY) rows.resize(edge.size), std::iota(rows.begin(), rows.end(), 0);
                else rows = channels;  // only those elements that have a row
                cross(edge, image, operation.kind != IDENTITY);
                if (operation.kind == GATHER) find_needed(operation, edge.images[image]);
            }
        }
        return bytes;
    }
    // Follow elements of an edge through its route, to the elements below it and their factors.
    void cross(Edge& edge, int64_t image, bool is_ordered) {  // ordered: all elements of the edge, one by one
        const auto rows = edge.images[image].rows.all();
        auto& factors = edge.images[image].factors;
        factors.clear();
        for (const auto& step : edge.steps) {
            const int64_t base = (first_image + image) * step.image_step;
            int64_t plane = 0;
            const auto follow = [&](auto below) INLINE {
                for (int64_t e = 0; e < rows.size; ++e)
                    if (rows[e] >= 0) rows[e] = below(e, rows[e]);
            };
            if (step.kind == KEEP_POSITIVE && is_ordered)
                for (int64_t e = 0; e < rows.size; ++e) rows[e] = step.values[base + e] <= 0 ? -1 : rows[e];
            else if (step.kind == KEEP_POSITIVE)  // like torch, keeps NaN
                follow([&](int64_t, int32_t at) { return step.values[base + at] <= 0 ? -1 : at; });
            else if (step.kind == TABLE)
                follow([&](int64_t, int32_t at) { return step.table[at]; });
            else if (step.kind == POOL)
                follow([&](int64_t, int32_t at) {
                    const int64_t low = plane * step.outer, winner = step.winners[base + at];
                    if (at < low || at >= low + step.outer) plane = at / step.outer;  // rarely
                    // torch stores an index outside of the plane for a window that lies in the padding
                    const bool is_inside = winner >= 0 && winner < step.inner;
                    return is_inside ? static_cast<int32_t>(plane * step.inner + winner) : -1;
                });
            else {
                if (factors.empty()) factors.assign(rows.size, T(1));
                follow([&](int64_t e, int32_t at) {
                    factors[e] *= step.values[base + at];
                    return factors[e] == 0 ? -1 : at;
                });
            }
            is_ordered = false;
        }
    }
    // Mark for each panel and position of the input the lanes whose results are needed.
    void find_needed(const Operation& operation, End& end) {
        const int64_t places = operation.in[0] * operation.in[1], step = operation.position_step;
        const int64_t in = operation.in_channels, panels = (in + LANES - 1) / LANES;
        end.needed.assign(panels * operation.groups * places, 0);
        const auto rows = end.rows.all();
        for (int64_t group = 0; group < operation.groups; ++group)
            for (int64_t channel = 0; channel < in; ++channel) {
                const int64_t first = operation.order[group * in + channel] * operation.channel_step;
                const auto needed = end.needed.all().part((group * panels + channel / LANES) * places, places);
                const auto mark = [&](int64_t step) INLINE {
                    for (int64_t place = 0; place < places; ++place)
                        needed[place] |= (rows[first + place * step] >= 0) << channel % LANES;
                };
                if (places == 1) needed[0] |= (rows[first] >= 0) << channel % LANES;
                else step == 1 ? mark(1) : mark(step);
            }
    }

    // Number the rows of an operation's slot by position and channel, and write the numbers into the arriving edges.
    void number(const Operation& operation, int64_t image) {
        auto& slot = slots[operation.slot];
        auto& made = slot.images[image];
        const int64_t positions = slot.groups * slot.positions, line = positions + 1;
        made.words.assign((slot.channels / slot.groups + 63) / 64 * line, 0), made.before.resize(made.words.size());
        const auto words = made.words.all();
        const auto before = made.before.all();
        each_place(slot, image, [&](int32_t& row, int64_t word, int64_t bit) INLINE {
            words[word] |= uint64_t(row >= 0) << bit;
        });
        int64_t count = 0;
        for (const auto word : words) count += __builtin_popcountll(word);
        made.channels.resize(count), made.offsets.resize(count);
        const auto channels = made.channels.all(), offsets = made.offsets.all();
        // A row in column x, with channel c, meets tap t in row (t * channels + c) of the weights. Within a run of
        // places t + x is constant, so that c - x * channels is all that differs.
        int32_t row = 0, shift = 0;
        for (int64_t position = 0, x = 0; position < positions; ++position, ++x) {
            if (operation.kind != GATHER || x == operation.out[1]) x = shift = 0;
            for (int64_t word = position, first = 0; word < words.size; word += line, first += 64) {
                before[word] = row;
                for (uint64_t rest = words[word]; rest; rest &= rest - 1, ++row) {
                    channels[row] = static_cast<int32_t>(first) + __builtin_ctzll(rest);
                    offsets[row] = channels[row] - shift;
                }
            }
            shift += static_cast<int32_t>(operation.out_channels);
        }
        before[positions] = row;
        each_place(slot, image, [&](int32_t& row, int64_t word, int64_t bit) INLINE {
            const uint64_t below = words[word] & ((uint64_t(1) << bit) - 1);
            row = row < 0 ? -1 : before[word] + static_cast<int32_t>(__builtin_popcountll(below));
        });
    }
    // Call `act` with each element that arrives, and the word and bit of its place; dropped ones have any word.
    template <class Act> INLINE void each_place(const Slot& slot, int64_t image, Act act) {
        const int64_t size = slot.channels / slot.groups, line = slot.groups * slot.positions + 1;
        const bool is_token = slot.channel_step == 1 && slot.groups == 1;  // neighbors are channels, not positions
        const int64_t inner = is_token ? slot.channels : slot.positions;
        for (const auto number : slot.arriving) {
            const auto rows = edges[number].images[image].rows.all();
            const bool is_plain = edges[number].is_plain;
            int64_t low = -inner, word = 0, bit = 0;
            const auto enter = [&](int64_t element) {
                const int64_t outer = element / inner;
                low = outer * inner, bit = outer % size % 64;
                word = is_token ? outer : outer % size / 64 * line + outer / size * slot.positions;
            };
            for (int64_t e = 0; is_plain && e < rows.size; e += inner) {
                enter(e);
                for (int64_t at = 0; at < inner; ++at) act(rows[e + at], word + at, bit);
            }
            for (int64_t e = 0; !is_plain && e < rows.size; ++e) {
                if (rows[e] >= 0 && (rows[e] < low || rows[e] >= low + inner)) enter(rows[e]);  // rarely
                const int64_t at = rows[e] < 0 ? 0 : rows[e] - low;
                is_token ? act(rows[e], word + at / 64 * line, at % 64) : act(rows[e], word + at, bit);
            }
        }
    }

    // Compute one block of cotangents for the images of the group.
    void fill() {
        allocate(slots[0]);
        for (int64_t image = 0; image < images; ++image) {
            const auto rows = rows_of(slots[0], image), to = output_of(image);
            if (is_input_merged) std::fill_n(to.data, to.size, T(0));
            const int64_t first = (first_image + image) * cotangent_step + lowest * seeds.size;
            for (int64_t row = 0; row < seeds.size; ++row)
                for (int64_t k = 0; k < width; ++k) rows[row * width + k] = cotangents[first + k * seeds.size + row];
        }
        for (const auto& operation : operations) {
            for (const auto edge : operation.edges)
                if (edges[edge].target >= 0) allocate(slots[edges[edge].target]);
            if (operation.kind == GATHER) gather(operation);
            auto act = width <= 4 ? &Runner::scatter<4> : width <= 8 ? &Runner::scatter<8> : &Runner::scatter<WIDEST>;
            for (int64_t image = 0; operation.kind != GATHER && image < images; ++image)
                operation.kind == SCATTER ? (this->*act)(operation, image) : pass(operation, image);
            Array<T>().swap(slots[operation.slot].values);
        }
    }
    View<T> output_of(int64_t image) { return jacobian.part((image * outputs + lowest) * inputs, width * inputs); }
    View<T> rows_of(Slot& slot, int64_t image) {
        return slot.values.all().part(slot.bases[image], slot.bases[image + 1] - slot.bases[image]);
    }
    // Reserve the rows of a slot for all images. They are zero.
    void allocate(Slot& slot) {
        if (!slot.values.empty()) return;
        slot.bases.assign(1, 0);
        for (int64_t image = 0; image < images; ++image)
            slot.bases.push_back(slot.bases.back() + slot.images[image].channels.length() * width);
        slot.values.resize(slot.bases.back() + WIDEST);
    }
    Sink sink(int64_t number, int64_t image) {
        const auto& [rows, factors, needed] = edges[number].images[image];
        const int64_t target = edges[number].target;
        if (target < 0) return {rows.all(), factors.all(), output_of(image), 1, inputs, is_input_merged};
        return {rows.all(), factors.all(), rows_of(slots[target], image), width, 1, slots[target].is_merged};
    }
    // Pass on `scale` times a row of cotangents to where element `at` of an edge arrives. May read WIDEST values.
    INLINE void deposit(const Sink& sink, int64_t at, const T* from, T scale = 1) const {
        const int64_t row = sink.rows[at];
        if (row < 0) return;
        if (sink.factors.size) scale *= sink.factors[at];
        T* to = sink.to.part(row * sink.row_step, (width - 1) * sink.step + 1).data;
        if (sink.step == 1 && width >= 8) add<8>(from, to, scale, sink.is_merged);
        else if (sink.step == 1 && width >= 4) add<4>(from, to, scale, sink.is_merged);
        else
            for (int64_t k = 0; k < width; ++k, to += sink.step) *to = scale * from[k] + (sink.is_merged ? *to : 0);
    }
    // Write or add `width` values as two vectors, which overlap if it is less than twice SIZE.
    template <int SIZE> INLINE void add(const T* from, T* to, T scale, bool is_merged) const {
        typedef T Vector __attribute__((vector_size(SIZE * sizeof(T)), aligned(sizeof(T)), may_alias));
        auto &low = *reinterpret_cast<Vector*>(to), &high = *reinterpret_cast<Vector*>(to + width - SIZE);
        Vector first = *reinterpret_cast<const Vector*>(from) * scale;
        Vector last = *reinterpret_cast<const Vector*>(from + width - SIZE) * scale;
        if (is_merged) first += low, last += high;
        low = first, high = last;
    }

    // Operations without weights of channels: each row goes on as it is, or to all positions of its window.
    void pass(const Operation& operation, int64_t image) {
        auto& slot = slots[operation.slot];
        const auto rows = rows_of(slot, image);
        const auto& [words, before, channels, offsets] = slot.images[image];
        for (const auto edge : operation.edges) {
            const auto to = sink(edge, image);
            for (int64_t row = 0; operation.kind == IDENTITY && row < to.rows.size; ++row)
                deposit(to, row, rows.part(row * width, width).data);
            for (int64_t position = 0; operation.kind == POSITIONS && position < slot.positions; ++position)
                for (int32_t row = before[position]; row < before[position + 1]; ++row)
                    for (int32_t n = operation.starts[position]; n < operation.starts[position + 1]; ++n)
                        deposit(to, operation.element(channels[row], operation.places[n]),
                                rows.part(row * width, width).data, operation.weights[n]);
        }
    }

    // Convolutions with few input channels per group: vectorized over the cotangents, for bands of lines of the input.
    // The sums (line, place, channel, cotangent) have an additional first line and place for what falls outside.
    template <int PADDED> void scatter(const Operation& operation, int64_t image) {
        const int64_t all = operation.in_channels * operation.groups, size = all * PADDED, places = operation.in[1];
        const int64_t height = std::max<int64_t>(1, BAND_BYTES / ((places + 1) * size * sizeof(T)));
        const auto to = sink(operation.edges[0], image);
        for (int64_t top = 0; top < operation.in[0]; top += height) {
            const int64_t lines = std::min(height, operation.in[0] - top);
            sums.assign((lines + 1) * (places + 1) * size, T(0));
            for (int64_t y = 0; y < operation.out[0]; ++y) sum_line<PADDED>(operation, image, y, top, lines);
            for (int64_t channel = 0; channel < all; ++channel)
                for (int64_t y = 0; y < lines; ++y)
                    for (int64_t x = 0; x < places; ++x)
                        deposit(to, operation.element(channel, (top + y) * places + x),
                                &sums[((y + 1) * (places + 1) + x + 1) * size + channel * PADDED]);
        }
    }
    // Add the products of a line of the output. Weights: (output channel, tap and input channel, padded to blocks).
    template <int PADDED>
    void sum_line(const Operation& operation, int64_t image, int64_t y, int64_t top, int64_t lines) {
        typedef T Vector __attribute__((vector_size(PADDED * sizeof(T)), aligned(sizeof(T)), may_alias));
        auto& slot = slots[operation.slot];
        const auto& [words, before, channels, offsets] = slot.images[image];
        const auto rows = slot.values.all();
        const int64_t base = slot.bases[image], padded = operation.width, in = operation.in_channels;
        const int64_t all = in * operation.groups, line = (operation.in[1] + 1) * all;
        starts.resize(padded), targets.resize(padded);  // where the products with each weight of a row belong
        const auto reached_lines = operation.reach[0].part(y * padded, padded);
        for (int64_t n = 0; n < padded; ++n) {
            const int64_t at = reached_lines[n] - top;
            starts[n] = at < 1 || at > lines ? 0 : at * line * PADDED;
        }
        for (int64_t x = 0; x < operation.out[1]; ++x) {
            const auto reached = operation.reach[1].part(x * padded, padded);
            for (int64_t n = 0; n < padded; ++n) targets[n] = starts[n] + reached[n] * PADDED;
            for (int64_t group = 0; group < operation.groups; ++group) {
                const int64_t position = group * slot.positions + y * operation.out[1] + x;
                const int32_t first = before[position], last = before[position + 1];
                for (int64_t n = 0; first < last && n < padded; n += BLOCK) {
                    Vector block[BLOCK] = {};
                    for (int32_t row = first; row < last; ++row) {
                        const int64_t channel = group * operation.out_channels + channels[row];
                        const auto weights = operation.weights.part(channel * padded + n, BLOCK);
                        const Vector vector = *reinterpret_cast<Vector*>(rows.part(base + row * width, PADDED).data);
                        UNROLL for (int lane = 0; lane < BLOCK; ++lane) block[lane] += weights[lane] * vector;
                    }
                    const auto to = sums.all().part(group * in * PADDED, sums.length() - group * in * PADDED);
                    UNROLL for (int lane = 0; lane < BLOCK; ++lane)
                        *reinterpret_cast<Vector*>(to.part(targets[n + lane], PADDED).data) += block[lane];
                }
            }
        }
    }

    // A position of the input and a panel of neighboring channels, whose sums fit into vectors.
    struct Spot {
        const Operation& operation;
        View<const T> weights;
        int64_t row_step, first_position, used;  // of the weights; of the group; lanes
        int64_t is_direct;                       // all lanes are neighbors in the Jacobian
        int64_t steps[LANES], image, element, y, x;
    };
    // Convolutions and linear layers: each position of the input sums over the rows that reach it, for a panel of input
    // channels at a time. The channels are sorted by how often they are needed, so that many panels are not needed at
    // all. Weights: (group, panel, tap, output channel, lane), or a matrix, and its last panel if that is not full.
    void gather(const Operation& operation) {
        const int64_t size = operation.taps * operation.out_channels * LANES, in = operation.in_channels;
        const int64_t panels = (in + LANES - 1) / LANES, places = operation.in[0] * operation.in[1];
        const auto& edge = edges[operation.edges[0]];
        const bool is_direct = edge.target < 0 && !is_input_merged && operation.channel_step == 1;
        const auto sum_all = all<MOST_COTANGENTS>();
        runs.resize(operation.taps);
        for (int64_t number = 0; number < panels * operation.groups; ++number) {
            const int64_t group = number / panels, low = number % panels * LANES, used = std::min(LANES, in - low);
            Spot at{operation, operation.tail, LANES, group * slots[operation.slot].positions, used, is_direct};
            if (!operation.tail.size) at.weights = operation.weights.part(number * size, size);
            else if (used == LANES)
                at.row_step = in, at.weights = operation.weights.part(low, operation.weights.size - low);
            const auto order = operation.order.part(group * in + low, used);
            for (int64_t lane = 0; lane < used; ++lane) at.steps[lane] = order[lane] * operation.channel_step;
            for (at.image = 0; at.image < images; ++at.image) {
                const auto to = sink(operation.edges[0], at.image);
                const auto needed = edge.images[at.image].needed.all().part(number * places, places);
                at.y = at.x = at.element = 0;
                for (int64_t n = 0; n < places; ++n, at.element += operation.position_step) {
                    if (needed[n]) gather_position(at, to, needed[n], sum_all);
                    if (++at.x == operation.in[1]) ++at.y, at.x = 0;
                }
            }
        }
    }
    // The functions for `width` cotangents or a few lanes. Results: (lane, cotangent), or without lanes, the Jacobian.
    using Summation = void (Runner::*)(const Spot&, const int32_t*, T*) const;
    template <int K> Summation all() const { return K > 1 && width < K ? all<K - (K > 1)>() : &Runner::sum_panel<K>; }
    template <int N> Summation few(int64_t n) const { return n < N ? few<N - (N > 1)>(n) : &Runner::sum_few<N>; }
    __attribute__((noinline)) void gather_position(const Spot& at, const Sink& to, uint32_t needed, Summation sum_all) {
        find_runs(at);
        if (at.is_direct) {
            const auto row = to.to.part(at.element + at.steps[0], (width - 1) * inputs + at.used);
            return (this->*sum_all)(at, nullptr, row.data);
        }
        alignas(64) T results[LANES * WIDEST];
        int32_t lanes[LANES];
        int64_t count = 0;
        for (; needed; needed &= needed - 1) {
            lanes[count] = __builtin_ctz(needed);
            // rows that lie far apart, and arrive in the cache while their values are computed
            const T* row = to.to.data + to.rows[at.element + at.steps[lanes[count++]]] * to.row_step;
            __builtin_prefetch(row, 1), __builtin_prefetch(row + width - 1, 1);
        }
        const int64_t most = std::min<int64_t>(MOST_FEW, (width - 2) * VECTOR_BYTES / (WIDEST * sizeof(T)));
        (this->*(count <= most ? few<MOST_FEW>(count) : sum_all))(at, lanes, results);
        for (int64_t n = 0; n < count; ++n) deposit(to, at.element + at.steps[lanes[n]], results + lanes[n] * WIDEST);
    }
    // Find the rows that reach a position of the input.
    INLINE void find_runs(const Spot& at) {
        const auto& before = slots[at.operation.slot].images[at.image].before;
        const auto& [down, across] = at.operation.axes;
        const int64_t step = at.row_step * at.operation.out_channels;
        used_runs = 0;
        for (int32_t n = down.starts[at.y]; n < down.starts[at.y + 1]; ++n)
            for (int32_t y = down.first[n]; y <= down.last[n]; ++y)
                for (int32_t m = across.starts[at.x]; m < across.starts[at.x + 1]; ++m) {
                    const int64_t tap = (down.sum[n] - y) * at.operation.kernel_width + across.sum[m];  // of column 0
                    const int64_t line = at.first_position + y * at.operation.out[1];
                    runs[used_runs++] = {tap * step, before[line + across.first[m]], before[line + across.last[m] + 1]};
                }
    }

    // Call `act` with the weights and the values of each row that reaches a position.
    template <class Act> INLINE void each_row(const Spot& at, int64_t size, Act act) const {
        const auto& slot = slots[at.operation.slot];
        const auto weights = at.weights;
        const auto offsets = slot.images[at.image].offsets.all();
        const auto values = slot.values.all();
        const int64_t base = slot.bases[at.image], step = at.row_step;
        for (const auto& run : runs.all().part(0, used_runs)) {
            const T* value = values.part(base + run.first * size, (run.last - run.first) * size + WIDEST - size).data;
            for (const auto offset : offsets.part(run.first, run.last - run.first)) {
                act(weights.part(run.weights + offset * step, LANES).data, value);
                value += size;
            }
        }
    }

    // All lanes of a panel: vectorized over them, with the sums of all cotangents in registers.
    template <int K> void sum_panel(const Spot& at, const int32_t* lanes, T* results) const {
        Panel totals[(K + LANES - 1) / LANES * LANES] = {};
        each_row(at, K, [&](const T* weights, const T* value) INLINE {
            const Panel panel = *reinterpret_cast<const Panel*>(weights);
            UNROLL for (int k = 0; k < K; ++k) totals[k] += panel * value[k];
        });
        for (int64_t k = 0; !lanes && k < K; ++k)
            if (at.used < LANES) std::memcpy(results + k * inputs, totals + k, at.used * sizeof(T));
            else std::memcpy(results + k * inputs, totals + k, VECTOR_BYTES);  // faster, since the number is fixed
        for (int64_t k = 0; lanes && k < K; k += LANES) {
            transpose<LANES / 2>(totals + k, std::make_integer_sequence<int, LANES>());
            UNROLL for (int n = 0; n < LANES; ++n) std::memcpy(results + n * WIDEST + k, totals + k + n, VECTOR_BYTES);
        }
    }
    // Transpose a square of vectors: exchange its off-diagonal quarters, then those of each quarter, and so on.
    template <int HALF, int... N> INLINE static void transpose(Panel* rows, std::integer_sequence<int, N...> lanes) {
        UNROLL for (int row = 0; row < LANES; ++row) {
            if (row & HALF) continue;
            const Panel top = rows[row], bottom = rows[row + HALF];
            rows[row] = SHUFFLE(top, bottom, (N & HALF ? LANES + N - HALF : N)...);
            rows[row + HALF] = SHUFFLE(top, bottom, (N & HALF ? LANES + N : N + HALF)...);
        }
        if constexpr (HALF > 1) transpose<HALF / 2>(rows, lanes);
    }
    // A few lanes of a panel: vectorized over the cotangents, with one sum per lane. Each sum has the same order.
    template <int N> void sum_few(const Spot& at, const int32_t* active, T* results) const {
        typedef T Vector __attribute__((vector_size(WIDEST * sizeof(T)), aligned(sizeof(T)), may_alias));
        Vector totals[N] = {};
        int64_t lanes[N];
        std::copy_n(active, N, lanes);
        each_row(at, width, [&](const T* weights, const T* value) INLINE {
            const Vector row = *reinterpret_cast<const Vector*>(value);
            UNROLL for (int n = 0; n < N; ++n) totals[n] += weights[lanes[n]] * row;
        });
        UNROLL for (int n = 0; n < N; ++n) std::memcpy(results + lanes[n] * WIDEST, totals + n, sizeof totals[n]);
    }
};
// Run a program for the images first … last - 1; `output` points at the (output, input) of the first one. Returns 0, or
// 2 if there is not enough memory, or 1 for any other error, whose text goes to the `room` bytes at `text`.
template <class T>
int run(const int64_t* words, int64_t size, int64_t first, int64_t last, T* output, char* text, int64_t room) try {
    return Runner<T>(Reader{{words, size}}).run(first, last, output), 0;
} catch (const std::bad_alloc&) {
    return std::snprintf(text, room, "not enough memory"), 2;
} catch (const std::exception& error) {
    return std::snprintf(text, room, "%s", error.what()), 1;
}
}  // namespace
extern "C" {
int64_t pellucid_abi() { return 1; }
int64_t pellucid_vector_bytes() { return VECTOR_BYTES; }  // they decide how weights are packed into panels
#define PELLUCID_RUN(NAME, T)                                                                                    \
    int NAME(const int64_t* words, int64_t size, int64_t first, int64_t last, T* to, char* text, int64_t room) { \
        return run(words, size, first, last, to, text, room);                                                    \
    }
PELLUCID_RUN(pellucid_run_float, float)
PELLUCID_RUN(pellucid_run_double, double)
}
