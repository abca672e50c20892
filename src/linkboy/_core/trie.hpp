// The pieces of a vocabulary: symbols for its characters, a trie for the longest match, and a table of short whole words.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "hash.hpp"

namespace linkboy {

// A token without its "##": characters from `begin` to `end` of one long array, first code points, later symbols.
struct Token {
  uint32_t begin, end;
  bool continues;  // it had "##"
  int32_t id;
};

// A double array. The children of a node stand at `base + symbol`, among those of other nodes, and each remembers whose
// child it is: a step is one addition and one look at twelve bytes. The owner is named by its base, which no two nodes
// share, so that nodes can be placed in any order: those with many children first, while there is room, and the many
// with a single child in the holes that are left.
class Trie {
 public:
  int32_t roots[2] = {NOWHERE, NOWHERE};  // where words begin, and where they go on

  // Returns how many symbols the longest piece takes, 0 where none begins here, and its id. `symbol` says what stands at a
  // place from 0 to before `count`.
  template <class Symbol>
  size_t longest(bool continues, const Symbol& symbol, size_t count, int32_t* id) const {
    int32_t base = roots[continues];
    size_t found = 0;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t at = uint32_t(base) + symbol(i);  // a base may be below zero: then this wraps round, as it should
      if (at >= cells_.size() || cells_[at].owner != base) break;
      const Cell& cell = cells_[at];
      if (cell.id >= 0) *id = cell.id, found = i + 1;
      base = cell.base;
    }
    return found;
  }

  void build(const std::vector<uint32_t>& symbols, std::vector<Token>& tokens) {
    std::sort(tokens.begin(), tokens.end(), [&](const Token& a, const Token& b) {
      if (a.continues != b.continues) return b.continues;
      return std::lexicographical_compare(symbols.begin() + a.begin, symbols.begin() + a.end,
                                          symbols.begin() + b.begin, symbols.begin() + b.end);
    });
    std::vector<Node> nodes = spread(symbols, tokens);
    place(nodes);
    roots[0] = nodes[0].base, roots[1] = nodes[1].base;
    for (const Node& node : nodes)
      for (uint32_t c = node.first; c < node.first + node.children; ++c)
        cells_[uint32_t(node.base) + nodes[c].symbol] = {nodes[c].base, node.base, nodes[c].id};
  }

 private:
  static constexpr int32_t NOWHERE = INT32_MIN / 2;  // base of a leaf: every step from it leads outside of the array
  struct Cell {
    int32_t base, owner, id;
  };
  struct Node {
    uint32_t low, high, depth;       // the sorted tokens below it
    uint32_t first = 0, children = 0;  // its children, which are neighbours among the nodes
    uint32_t symbol = 0;
    int32_t id = -1, base = NOWHERE;
  };
  std::vector<Cell> cells_;

  // The nodes of an ordinary trie, level by level.
  static std::vector<Node> spread(const std::vector<uint32_t>& symbols, const std::vector<Token>& tokens) {
    uint32_t middle = 0;
    while (middle < tokens.size() && !tokens[middle].continues) ++middle;
    std::vector<Node> nodes{{0, middle, 0}, {middle, uint32_t(tokens.size()), 0}};
    for (uint32_t n = 0; n < nodes.size(); ++n) {
      Node node = nodes[n];
      if (node.low < node.high && tokens[node.low].end - tokens[node.low].begin == node.depth)
        node.id = tokens[node.low++].id;
      node.first = uint32_t(nodes.size());
      for (uint32_t low = node.low, high; low < node.high; low = high) {
        const uint32_t symbol = symbols[tokens[low].begin + node.depth];
        for (high = low + 1; high < node.high && symbols[tokens[high].begin + node.depth] == symbol;) ++high;
        nodes.push_back({low, high, node.depth + 1, 0, 0, symbol});
      }
      node.children = uint32_t(nodes.size()) - node.first;
      nodes[n] = node;
    }
    return nodes;
  }

  // Finds a base for each node. Those with many children come first, at the first place where they fit; equally many
  // continue where the one before found its place, which keeps this linear, as what did not fit one of them will hardly fit
  // the next. Those with a single child fill the holes, each chain of them in a row: most pieces end in one, and a step to
  // the next cell costs a tenth of one to a place that no cache holds.
  void place(std::vector<Node>& nodes) {
    int64_t widest = 0;
    for (const Node& node : nodes) widest = std::max<int64_t>(widest, node.symbol);
    std::vector<uint8_t> taken(nodes.size() + widest + 1), based(nodes.size() + 2 * widest + 2);
    size_t first_free = 0, at = 0, size = 0;
    const auto put_at_next_fit = [&](Node& node) {
      for (;; ++at) {
        if (at + widest + 1 >= taken.size()) taken.resize(2 * taken.size()), based.resize(2 * taken.size() + widest);
        if (taken[at]) continue;
        const int64_t base = int64_t(at) - nodes[node.first].symbol;
        bool fits = !based[base + widest];
        for (uint32_t c = node.first + 1; fits && c < node.first + node.children; ++c)
          fits = !taken[base + nodes[c].symbol];
        if (!fits) continue;
        node.base = int32_t(base), based[base + widest] = 1;
        for (uint32_t c = node.first; c < node.first + node.children; ++c) {
          taken[base + nodes[c].symbol] = 1;
          size = std::max<size_t>(size, base + nodes[c].symbol + 1);
        }
        return;
      }
    };
    std::vector<uint32_t> order;
    for (uint32_t n = 0; n < nodes.size(); ++n)
      if (nodes[n].children > 1) order.push_back(n);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return nodes[a].children > nodes[b].children; });
    uint32_t children = 0;
    for (uint32_t n : order) {
      if (nodes[n].children != children) children = nodes[n].children, at = first_free;
      put_at_next_fit(nodes[n]);
      while (taken[first_free]) ++first_free;
    }
    at = first_free;
    for (Node& head : nodes)
      for (Node* node = &head; node->children == 1 && node->base == NOWHERE; node = &nodes[node->first])
        put_at_next_fit(*node);
    cells_.assign(size, {NOWHERE, NOWHERE, -1});
  }
};

// Whole words of up to eight symbols below 256, which are the most frequent ones. The word itself is the key, eight bits a
// symbol, the first lowest, none of which is 0, so nothing needs to be compared but one number.
class ShortWords {
 public:
  // `limit`: the most symbols of a word, where that is below eight.
  void build(const std::vector<uint32_t>& symbols, const std::vector<Token>& tokens, size_t limit) {
    std::vector<std::pair<uint64_t, const Token*>> found;
    for (const Token& token : tokens) {
      uint64_t key = 0;
      uint32_t any = 0;
      for (uint32_t i = token.begin; i < token.end; ++i)
        key |= uint64_t(symbols[i]) << (8 * (i - token.begin) & 63), any |= symbols[i];
      if (!token.continues && token.end - token.begin <= std::min<size_t>(limit, 8) && any < 256) found.push_back({key, &token});
    }
    bits_ = 4;
    while (size_t(1) << bits_ < 2 * found.size()) ++bits_;
    slots_.assign(size_t(1) << bits_, Slot{});
    may_be_.assign((size_t(1) << MARKS) / 64, 0);
    for (const auto& [key, token] : found) {
      may_be_[mark(key) / 64] |= uint64_t(1) << mark(key) % 64;
      size_t at = home(key);
      while (slots_[at].key) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = {key, token->id};
    }
  }

  int32_t find(uint64_t key) const {
    if (!(may_be_[mark(key) / 64] >> mark(key) % 64 & 1)) return -1;
    size_t at = home(key);
    while (slots_[at].key != key) {
      if (!slots_[at].key) return -1;
      at = (at + 1) & (slots_.size() - 1);
    }
    return slots_[at].id;
  }

 private:
  struct Slot {
    uint64_t key = 0;
    int32_t id = -1;
  };
  static constexpr int MARKS = 18;
  std::vector<uint64_t> may_be_;  // a bit for each hash that a word has: small enough to stay in the nearest cache
  std::vector<Slot> slots_;
  int bits_ = 4;

  static size_t mark(uint64_t key) { return size_t(key * GOLDEN >> (64 - MARKS)); }

  size_t home(uint64_t key) const { return size_t(key * GOLDEN >> (64 - bits_)); }
};

}  // namespace linkboy
